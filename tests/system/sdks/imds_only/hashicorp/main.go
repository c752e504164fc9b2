// An application with the authorizer of HashiCorp's SDK for Azure, which Terraform's provider azurerm uses.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"github.com/hashicorp/go-azure-sdk/sdk/auth"
	"github.com/hashicorp/go-azure-sdk/sdk/environments"
)

func main() {
	environment, err := environments.FromEndpoint(context.Background(), "https://management.azure.com")
	if err != nil {
		fail(err)
	}
	authorizer, err := auth.NewAuthorizerFromCredentials(context.Background(), auth.Credentials{
		Environment:                              *environment,
		EnableAuthenticatingUsingManagedIdentity: true,
		ClientID:                                 os.Getenv("AZURE_CLIENT_ID"),
	}, environment.ResourceManager)
	if err != nil {
		fail(err)
	}
	request, err := http.NewRequest(http.MethodGet, "https://management.azure.com/subscriptions?api-version=2022-12-01", nil)
	if err != nil {
		fail(err)
	}
	token, err := authorizer.Token(context.Background(), request)
	if err != nil {
		fail(err)
	}
	token.SetAuthHeader(request)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		fail(err)
	}
	defer response.Body.Close()
	fmt.Println("status", response.StatusCode)
}

func fail(err error) {
	fmt.Printf("failed %T %v\n", err, err)
	os.Exit(1)
}
