"""Application that gets a token with azure-identity. Version 1.0.0 of 2019 and the current one accept the same calls.

usage: azure_identity_token.py managed|chain SCOPE TIMES [client-id|resource-id|object-id ID]
"""

import sys

from azure.core.exceptions import AzureError
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential


def main() -> int:
    kind, scope, times, *selector = sys.argv[1:]
    named = dict([selector]) if selector else {}
    credential: DefaultAzureCredential | ManagedIdentityCredential
    if kind == "chain":
        credential = DefaultAzureCredential()
    elif "client-id" in named:
        credential = ManagedIdentityCredential(client_id=named["client-id"])
    elif "resource-id" in named:
        credential = ManagedIdentityCredential(identity_config={"resource_id": named["resource-id"]})
    elif "object-id" in named:
        credential = ManagedIdentityCredential(identity_config={"object_id": named["object-id"]})
    else:
        credential = ManagedIdentityCredential()
    try:
        for _ in range(int(times)):
            sys.stdout.write(f"token {credential.get_token(scope).token}\n")
    except AzureError as error:
        sys.stdout.write(f"failed {type(error).__name__} {' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
