// Print the CustomResourceDefinitions of Cilium that the arguments name, from Cilium's own Go package.
package main

import (
	"log"
	"os"

	definitions "github.com/cilium/cilium/pkg/k8s/apis/cilium.io/client/crds/v2"
)

func main() {
	for _, name := range os.Args[1:] {
		text, err := definitions.EmbedFS.ReadFile(name + ".yaml")
		if err != nil {
			log.Fatal(err)
		}
		if _, err := os.Stdout.Write(text); err != nil {
			log.Fatal(err)
		}
	}
}
