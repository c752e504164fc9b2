// An application with @azure/ms-rest-nodeauth, the authentication of Azure's former libraries for Node.js.
import { ServiceClient } from "@azure/ms-rest-js"
import { loginWithVmMSI } from "@azure/ms-rest-nodeauth"

const client = new ServiceClient(await loginWithVmMSI())
const url = "https://management.azure.com/subscriptions?api-version=2022-12-01"
const response = await client.sendRequest({ method: "GET", url })
console.log("status", response.status)
