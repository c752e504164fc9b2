// An application with cert-manager's solver for Azure DNS, which presents a record in a zone.
package main

import (
	"context"
	"fmt"
	"os"

	cmacme "github.com/cert-manager/cert-manager/pkg/apis/acme/v1"
	"github.com/cert-manager/cert-manager/pkg/issuer/acme/dns/azuredns"
)

func main() {
	identity := &cmacme.AzureManagedIdentity{ClientID: os.Getenv("AZURE_CLIENT_ID")}
	solver, err := azuredns.NewDNSProviderCredentials("AzurePublicCloud", "", "", "subscription", "", "group",
		"example.com", []string{"127.0.0.1:53"}, true, identity)
	if err == nil {
		err = solver.Present(context.Background(), "example.com", "_acme-challenge.example.com.", "value")
	}
	if err != nil {
		fmt.Printf("failed %T %v\n", err, err)
		os.Exit(1)
	}
	fmt.Println("presented")
}
