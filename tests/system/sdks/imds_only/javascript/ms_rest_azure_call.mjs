// An application with ms-rest-azure, the authentication of Azure's first libraries for Node.js.
import azure from "ms-rest-azure"

const client = new azure.AzureServiceClient(await azure.loginWithVmMSI())
const url = "https://management.azure.com/subscriptions?api-version=2022-12-01"
const document = await client.sendRequest({ method: "GET", url })
console.log("subscriptions", document.value.length)
