"""Federated credentials in the sandbox's AAD: verification of an assertion by another issuer.

AAD compares the assertion with the client's federated credentials (issuer, subject and audience, each exactly and with
case), and then verifies its signature by the keys of the issuer, and its times. AAD requests no keys of an issuer that
no credential names: it reports a mismatch for issuers that the Internet does not reach
(Azure/azure-workload-identity#616).

Numbers and texts are those that users have reported of AAD: AADSTS70025 if the client has no credential (that AAD
knows), 700211 to 700213 and 7002138 if none matches (Azure/azure-workload-identity#1200, Azure/login#515), 700024
outside of its time (risingwavelabs/risingwave#17123), 7000272 if the issuer does not serve the key
(Azure/azure-workload-identity#1232). All of them are `invalid_client` with 401. If the issuer is not reachable it is
50166, `invalid_request` with 400 (Azure/azure-workload-identity#1130). The number 50013 for a wrong signature by a
known key is assumed, from AAD's other assertions.

Until 2023 AAD returned AADSTS70021 instead of 700211 to 700213, at first with 400 `invalid_request`
(Azure/azure-workload-identity#340) and later with 401 `invalid_client` (external-secrets/external-secrets#2783). A test
of this behaviour adds a fault.

AAD accepts one assertion any number of times within its lifetime and about five minutes more: workload identity's SDKs
present one file with a token for an hour, and Azure/login#180 and #372 report how long a job's token is accepted.

The cluster is such an issuer. An issuer need not be where its server is: AKS serves the two documents that verify a
token from public storage, and a server may call itself https://kubernetes.default.svc. Here nothing else serves them,
so they are requested from the server for any issuer name.
"""

import datetime
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from podidentity.exits import StartError
from podidentity.kube.access import ClusterAccess
from podidentity_sandbox import base64url
from podidentity_sandbox.directory import FederatedCredential
from podidentity_sandbox.proofs import SKEW_SECONDS, NotProvenError

CONFIGURATION: Final = "/.well-known/openid-configuration"
KEY_SET: Final = "/openid/v1/jwks"
FETCH_SECONDS: Final = 10.0
ADVICE: Final = (
    "Check your federated identity credential Subject, Audience and Issuer against the presented assertion. "
    "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
)
ADVICE_ON_CASE: Final = (
    "The subject matches with case-insensitive comparison, but not with case-sensitive comparison. Check your "
    "federated identity credential Subject, Audience and Issuer against the presented assertion. See documentation at: "
    "https://learn.microsoft.com/entra/workload-id/workload-identity-federation. See breaking change notification and "
    "remediation at: https://learn.microsoft.com/en-us/entra/identity-platform/reference-breaking-changes#august-2024."
)
_UNREADABLE: Final = "JWT token is invalid or malformed."

Fetch = Callable[[str], Awaitable[bytes]]
"""Return the content of a URL. Any exception means that the document is not available."""


@dataclass(frozen=True, slots=True)
class Assertion:
    """The parts of a JSON Web Token, not verified."""

    issuer: str
    subject: str
    audiences: tuple[str, ...]
    begins: float
    ends: float
    algorithm: str
    key_id: str
    signed: bytes
    signature: bytes


def read_assertion(text: str) -> Assertion:
    """Parse an assertion. Raise NotProvenError for an invalid one."""
    try:
        head, body, signature = text.split(".")
        header, claims = (json.loads(base64url.decode(part)) for part in (head, body))
        audience = claims["aud"]
        ends = float(claims["exp"])
        return Assertion(
            str(claims["iss"]),
            str(claims["sub"]),
            tuple(map(str, audience)) if isinstance(audience, list) else (str(audience),),
            float(claims.get("nbf", claims.get("iat", ends))),
            ends,
            str(header["alg"]),
            str(header.get("kid", "")),
            f"{head}.{body}".encode(),
            base64url.decode(signature),
        )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as wrong:
        raise NotProvenError(50027, _UNREADABLE) from wrong


def match(assertion: Assertion, client: str, credentials: Sequence[FederatedCredential]) -> None:
    """Return if a credential of *client* (for messages) matches. Raise NotProvenError with the part that does not."""
    if not credentials:
        raise NotProvenError(70025, f"The client {client} has no configured federated identity credentials.")
    same_issuer = [credential for credential in credentials if credential.issuer == assertion.issuer]
    if not same_issuer:
        raise _unmatched(700211, "issuer", assertion.issuer)
    same_subject = [credential for credential in same_issuer if credential.subject == assertion.subject]
    if not same_subject and any(credential.subject.lower() == assertion.subject.lower() for credential in same_issuer):
        raise _unmatched(7002138, "subject", assertion.subject, ADVICE_ON_CASE)
    if not same_subject:
        raise _unmatched(700213, "subject", assertion.subject)
    if not any(credential.audience in assertion.audiences for credential in same_subject):
        raise _unmatched(700212, "audience", ", ".join(assertion.audiences))


def check_times(assertion: Assertion, now: float) -> None:
    """Raise NotProvenError for an assertion that has expired, or is not valid yet."""
    if assertion.begins - SKEW_SECONDS <= now < assertion.ends + SKEW_SECONDS:
        return
    moments = [_timestamp(moment) for moment in (now, assertion.begins, assertion.ends)]
    raise NotProvenError(
        700024,
        "Client assertion is not within its valid time range. Current time: {}, assertion valid from {}, expiry time "
        "of assertion {}. Review the documentation at "
        "https://learn.microsoft.com/entra/identity-platform/certificate-credentials .".format(*moments),
    )


class IssuerKeys:
    """The keys of issuers, read by *fetch* at first and for an unknown key. Without it no issuer can be reached."""

    def __init__(self, fetch: Fetch | None = None) -> None:
        self.fetch = fetch
        self._keys: dict[tuple[str, str], rsa.RSAPublicKey] = {}

    async def check_signature(self, assertion: Assertion) -> None:
        """Raise NotProvenError unless the signature is by the issuer and the algorithm is RS256."""
        if assertion.algorithm != "RS256":
            raise NotProvenError(50027, _UNREADABLE)
        named = (assertion.issuer, assertion.key_id)
        if named not in self._keys:
            # All keys of the issuer are read again, because it may have withdrawn one of them.
            self._keys = {name: key for name, key in self._keys.items() if name[0] != assertion.issuer}
            self._keys |= await self._fetch_keys(assertion.issuer)
        key = self._keys.get(named)
        if key is None:
            raise NotProvenError(
                7000272,
                f"The certificate with identifier {assertion.key_id[:64]} used to sign the federated credential could "
                f"not be found in the metadata of identity provider {assertion.issuer}. Please validate that your "
                "Identity Provider's metadata exposes the key used to sign the incoming token.",
            )
        try:
            key.verify(assertion.signature, assertion.signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as wrong:
            raise NotProvenError(
                50013,
                "Assertion failed signature validation. [Reason - The provided signature value did not match the "
                f"expected signature value., Thumbprint of key used by client: '{assertion.key_id[:64]}']",
            ) from wrong

    async def _fetch_keys(self, issuer: str) -> dict[tuple[str, str], rsa.RSAPublicKey]:
        if self.fetch is None:
            raise IssuerUnreachableError
        try:
            configuration = json.loads(await self.fetch(issuer.rstrip("/") + CONFIGURATION))
            served = json.loads(await self.fetch(str(configuration["jwks_uri"])))["keys"]
            keys = {(issuer, str(key["kid"])): _public(key) for key in served if key.get("kty") == "RSA"}
        except Exception as wrong:
            raise IssuerUnreachableError from wrong
        if configuration.get("issuer") != issuer:
            raise IssuerUnreachableError
        return keys


class IssuerUnreachableError(Exception):
    """The issuer does not serve the documents that verify assertions."""


def _unmatched(number: int, part: str, presented: str, advice: str = ADVICE) -> NotProvenError:
    return NotProvenError(
        number,
        f"No matching federated identity record found for presented assertion {part} '{presented}'. {advice}",
    )


def _public(key: Mapping[str, Any]) -> rsa.RSAPublicKey:
    modulus, exponent = (int.from_bytes(base64url.decode(str(key[name])), "big") for name in ("n", "e"))
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _timestamp(moment: float) -> str:
    try:
        date = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return str(moment)
    return f"{date:%Y-%m-%dT%H:%M:%S.%f}0Z"


async def issuer_of(access: ClusterAccess) -> str:
    """Return the issuer in the cluster's service account tokens. Raise StartError."""
    try:
        return str(json.loads(await fetch(access, CONFIGURATION))["issuer"])
    except (aiohttp.ClientError, OSError, ValueError, KeyError) as wrong:
        raise StartError(f"the API server serves no {CONFIGURATION}: {wrong}") from wrong


async def fetch(access: ClusterAccess, url: str) -> bytes:
    """Return the issuer's document at *url*. Raise ValueError for another, and what aiohttp raises."""
    path = next((document for document in (CONFIGURATION, KEY_SET) if url.endswith(document)), "")
    if not path:
        raise ValueError(f"{url} is not a document of an issuer")
    authorization = await access.authorization()
    # Without Accept: the key set has its own media type, and the server refuses a client that accepts only JSON.
    headers = {"Authorization": authorization} if authorization else {}
    async with (
        aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS)) as session,
        session.get(
            access.server + path,
            ssl=access.ssl or True,
            server_hostname=access.server_hostname,
            allow_redirects=False,
            raise_for_status=True,
        ) as response,
    ):
        return await response.read()
