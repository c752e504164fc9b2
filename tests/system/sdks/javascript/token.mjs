// An application that gets a token by @azure/identity.
// usage: token.mjs managed|chain SCOPE TIMES [client-id|resource-id|object-id ID]

import { DefaultAzureCredential, ManagedIdentityCredential } from "@azure/identity";

const [kind, scope, times, selector, id] = process.argv.slice(2);
const parameters = { "client-id": "clientId", "resource-id": "resourceId", "object-id": "objectId" };
let credential;
if (kind === "chain") {
  credential = new DefaultAzureCredential();
} else if (selector) {
  credential = new ManagedIdentityCredential({ [parameters[selector]]: id });
} else {
  credential = new ManagedIdentityCredential();
}
try {
  for (let i = 0; i < Number(times); i++) {
    const { token } = await credential.getToken(scope);
    console.log(`token ${token}`);
  }
} catch (error) {
  console.log(`failed ${error.name} ${error.message.replaceAll(/\s+/g, " ")}`);
  process.exitCode = 1;
}
