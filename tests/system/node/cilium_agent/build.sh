#!/bin/sh
# Build Cilium's agent and its CNI plugin from the version that go.mod names, and copy what the agent needs at run time:
# the sources of its kernel programs, and the CustomResourceDefinitions, which Cilium's operator creates in a cluster.
# It needs Go 1.26 and 8 GB for Go's caches, and takes 10 to 60 minutes.
# usage: build.sh FOLDER
set -eu
[ $# = 1 ] || { echo "usage: build.sh FOLDER" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")"
module=github.com/cilium/cilium
version=$(go list -mod=readonly -m -f '{{.Version}}' $module)
export CGO_ENABLED=0 GOFLAGS="-mod=readonly -trimpath"
flags="-s -w -X $module/pkg/version.ciliumVersion=${version#v}"
go build -ldflags "$flags" -o "$folder/cilium-cni" $module/plugins/cilium-cni
go build -ldflags "$flags" -o "$folder/cilium-agent" $module/daemon
source=$(go list -mod=readonly -m -f '{{.Dir}}' $module)
rm -rf "$folder/bpf" "$folder/crds"
cp -r "$source/bpf" "$folder/bpf"
cp -r "$source/pkg/k8s/apis/cilium.io/client/crds" "$folder/crds"
chmod -R u+w "$folder/bpf" "$folder/crds"
echo "${version#v}" >"$folder/version"
