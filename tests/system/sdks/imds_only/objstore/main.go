// An application with the object storage client of Thanos.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/go-kit/log"
	"github.com/thanos-io/objstore/providers/azure"
)

func main() {
	configuration := fmt.Sprintf("storage_account: account\ncontainer: container\nuser_assigned_id: %q\n",
		os.Getenv("AZURE_CLIENT_ID"))
	bucket, err := azure.NewBucket(log.NewNopLogger(), []byte(configuration), "application", nil)
	if err == nil {
		err = bucket.Iter(context.Background(), "", func(name string) error {
			fmt.Println("found", name)
			return nil
		})
	}
	if err != nil {
		fmt.Printf("failed %T %v\n", err, err)
		os.Exit(1)
	}
}
