// An application that gets a token by azidentity.
// usage: token managed|chain SCOPE TIMES [client-id|resource-id|object-id ID]
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

func credential(kind string, selector []string) (azcore.TokenCredential, error) {
	if kind == "chain" {
		return azidentity.NewDefaultAzureCredential(nil)
	}
	options := azidentity.ManagedIdentityCredentialOptions{}
	if len(selector) == 2 {
		switch selector[0] {
		case "client-id":
			options.ID = azidentity.ClientID(selector[1])
		case "resource-id":
			options.ID = azidentity.ResourceID(selector[1])
		case "object-id":
			options.ID = azidentity.ObjectID(selector[1])
		}
	}
	return azidentity.NewManagedIdentityCredential(&options)
}

func run(arguments []string) error {
	with, err := credential(arguments[0], arguments[3:])
	if err != nil {
		return err
	}
	times, err := strconv.Atoi(arguments[2])
	if err != nil {
		return err
	}
	for range times {
		token, err := with.GetToken(context.Background(), policy.TokenRequestOptions{Scopes: arguments[1:2]})
		if err != nil {
			return err
		}
		fmt.Println("token", token.Token)
	}
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Printf("failed %T %s\n", err, strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}
