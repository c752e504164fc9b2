"""The cluster as an issuer of tokens: the documents that verify a token, fetched from the API server itself.

An issuer need not be where its server is: AKS serves the same two documents from public storage, and a server may call
itself https://kubernetes.default.svc. Here nothing else serves them, so they are requested from the server for any
issuer name.
"""

import json
from typing import Final

import aiohttp

from podidentity.kube.access import ClusterAccess
from podidentity_sandbox.federation import CONFIGURATION

KEY_SET: Final = "/openid/v1/jwks"
SECONDS: Final = 10.0


class IssuerError(Exception):
    """The issuer of the API server's tokens is unknown. The message describes its response."""


async def issuer_of(access: ClusterAccess) -> str:
    """Return the issuer in the cluster's service account tokens. Raise IssuerError."""
    try:
        return str(json.loads(await fetch(access, CONFIGURATION))["issuer"])
    except (aiohttp.ClientError, OSError, ValueError, KeyError) as wrong:
        raise IssuerError(f"the API server serves no {CONFIGURATION}: {wrong}") from wrong


async def fetch(access: ClusterAccess, url: str) -> bytes:
    """Return the issuer's document at *url*. Raise ValueError for another, and what aiohttp raises."""
    path = next((each for each in (CONFIGURATION, KEY_SET) if url.endswith(each)), "")
    if not path:
        raise ValueError(f"{url} is not a document of an issuer")
    authorization = await access.authorization()
    # Without Accept: the key set has its own media type, and the server refuses a client that accepts only JSON.
    headers = {"Authorization": authorization} if authorization else {}
    async with (
        aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=SECONDS)) as session,
        session.get(
            access.server + path,
            ssl=access.ssl or True,
            server_hostname=access.server_hostname,
            allow_redirects=False,
            raise_for_status=True,
        ) as response,
    ):
        return await response.read()
