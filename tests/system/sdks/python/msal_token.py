"""Application that gets a token with MSAL for Python, which has no chain and reports a failure in a dictionary.

usage: msal_token.py managed SCOPE TIMES [client-id|resource-id|object-id ID]
"""

import sys

import msal  # type: ignore[import-untyped] # msal has no types
import requests


def main() -> int:
    _, scope, times, *selector = sys.argv[1:]
    named = dict([selector]) if selector else {}
    if named:
        identity = msal.UserAssignedManagedIdentity(
            client_id=named.get("client-id"), resource_id=named.get("resource-id"), object_id=named.get("object-id")
        )
    else:
        identity = msal.SystemAssignedManagedIdentity()
    client = msal.ManagedIdentityClient(identity, http_client=requests.Session())
    for _ in range(int(times)):
        response = client.acquire_token_for_client(resource=scope.removesuffix("/.default"))
        if "access_token" not in response:
            description = " ".join(str(response.get("error_description")).split())
            sys.stdout.write(f"failed {response['error']} {description}\n")
            return 1
        sys.stdout.write(f"token {response['access_token']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
