// An application with go-autorest, the client library of Azure's Go SDK until 2023.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"github.com/Azure/go-autorest/autorest"
	"github.com/Azure/go-autorest/autorest/azure/auth"
)

func main() {
	settings, err := auth.GetSettingsFromEnvironment()
	if err != nil {
		fail(err)
	}
	settings.Values[auth.Resource] = settings.Environment.ResourceManagerEndpoint
	authorizer, err := settings.GetMSI().Authorizer()
	if err != nil {
		fail(err)
	}
	client := autorest.NewClientWithUserAgent("application")
	client.Authorizer = authorizer
	request, err := autorest.Prepare((&http.Request{}).WithContext(context.Background()),
		autorest.AsGet(), autorest.WithBaseURL(settings.Environment.ResourceManagerEndpoint),
		autorest.WithPath("/subscriptions"), autorest.WithQueryParameters(map[string]interface{}{"api-version": "2022-12-01"}))
	if err != nil {
		fail(err)
	}
	response, err := client.Do(request)
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
