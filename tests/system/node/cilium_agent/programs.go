//go:build programs

// Package programs names the commands of Cilium that build.sh builds, so that `go mod tidy` keeps what they need.
package programs

import (
	_ "github.com/cilium/cilium/daemon"
	_ "github.com/cilium/cilium/plugins/cilium-cni"
)
