"""Tokens from IMDS: of a user-assigned identity on this VM (type 0), and of the node's own identities.

For type 0, the request to IMDS contains the client id in standard mode: MIC has compared it with the client id that
Azure reports for the resource id. In managed mode no component compares them: the request contains the resource id if
there is one, and the source compares the response with the client id.
"""

from typing import Final, NamedTuple

from nmi.identity.request import SelectorKind, TokenRequest
from nmi.tokens.governor import Governor
from nmi.tokens.source import FetchContext, FetchedToken, FetchRequest, IdentityKey, PolicyError, Token, decode_claims
from podidentity.azure.errors import Refused
from podidentity.azure.imds import ImdsSource, RawResponse
from podidentity.resources import AzureIdentity
from podidentity.telemetry.logs import redacted

CLIENT_ID_MAX: Final = 256
RESOURCE_ID_MAX: Final = 2048
"""Characters. A client id has 36 and an ARM id a few hundred; an AzureIdentity may contain a megabyte."""

_PARAMETERS: Final = {
    SelectorKind.CLIENT_ID: "client_id",
    SelectorKind.OBJECT_ID: "object_id",
    SelectorKind.RESOURCE_ID: "resource_id",
}


def check(identity: AzureIdentity) -> None:
    """Raise PolicyError for a value that cannot be an id: it is not sent to IMDS. IMDS decides on all others. Only a
    resource id may contain other letters than ASCII ones, in the name of its resource group."""
    for field, text, most in (
        ("clientID", identity.spec.client_id, CLIENT_ID_MAX),
        ("resourceID", identity.spec.resource_id, RESOURCE_ID_MAX),
    ):
        stripped = text.strip()
        letters = field == "resourceID" and all(letter.isascii() or letter.isalnum() for letter in stripped[:most])
        if len(stripped) > most or not (stripped.isprintable() and (stripped.isascii() or letters)):
            raise PolicyError(
                "No token can be fetched for this identity's AzureIdentity; its owner must correct it.",
                f"AzureIdentity {'/'.join(identity.key)} has an invalid {field}; set it to the identity's own",
            )


class OtherIdentityError(Refused):
    """IMDS returned a token of another identity than the one that the AzureIdentity's clientID names."""


class ImdsSelector(NamedTuple):
    """The id by which a request to IMDS names an identity: exactly one of the two is not empty."""

    client_id: str
    resource_id: str


def imds_selector(identity: AzureIdentity, *, by_resource_id: bool) -> ImdsSelector:
    """Return the client id, else the resource id; with *by_resource_id* in the opposite order.

    Raise Refused for an identity without both.
    """
    client_id, resource_id = identity.spec.client_id.strip(), identity.spec.resource_id.strip()
    if not client_id and not resource_id:
        raise Refused("the AzureIdentity names neither a clientID nor a resourceID", code="identity_incomplete")
    if by_resource_id:
        return ImdsSelector("" if resource_id else client_id, resource_id)
    return ImdsSelector(client_id, "" if client_id else resource_id)


class UserAssignedSource:
    """The source for type 0. Every request names an identity: without one, IMDS returns the VM's own."""

    per_pod = False

    def __init__(self, imds: ImdsSource, *, by_resource_id: bool) -> None:
        """*by_resource_id*: as in `imds_selector`; for managed mode."""
        self._imds = imds
        self._by_resource_id = by_resource_id

    def check(self, identity: AzureIdentity) -> None:
        """Implement TokenSource.check."""
        check(identity)

    def key(self, identity: AzureIdentity, /) -> IdentityKey:
        """Implement TokenSource.key: the id that IMDS gets, and the client id, which the response is compared with."""
        client_id, resource_id = identity.spec.client_id.strip(), identity.spec.resource_id.strip()
        # IMDS does not get the resource id then, so its spelling must not give an identity two tokens.
        if client_id and not self._by_resource_id:
            resource_id = ""
        if resource_id.isascii():  # the lower case of the Kelvin sign is k, which is another letter for Azure
            resource_id = resource_id.lower()
        return IdentityKey(identity.spec.type, client_id.lower(), resource_id)

    def accept(self, _identity: AzureIdentity, _credential: str, /) -> None:
        """Implement TokenSource.accept: there is no Secret."""

    async def fetch(self, request: FetchRequest, context: FetchContext, /) -> FetchedToken:
        """Implement TokenSource.fetch. Raise OtherIdentityError if the token's client id is not the identity's.

        The client id comes from IMDS's response, else from the token. Without both (Azure's IMDS always returns one)
        the source returns the token without the comparison.
        """
        client_id = request.identity.spec.client_id.strip()
        selector = imds_selector(request.identity, by_resource_id=self._by_resource_id)
        response = await self._imds.token(
            request.resource,
            client_id=selector.client_id,
            resource_id=selector.resource_id,
            xms_cc=request.xms_cc,
            bypass_cache=request.force_refresh,
            within=context.timeout_seconds,
            lag_seconds=context.lag_seconds,
            permit=context.call_permit,
        )
        claims = decode_claims(response.access_token)
        actual = response.client_id or claims.client_id
        # The author may have written another identity's client id and the resource id of an own identity.
        if client_id and actual and actual.lower() != client_id.lower():
            raise OtherIdentityError(
                f"the AzureIdentity names client id {redacted(client_id)}, but IMDS returned a token of client id "
                f"{redacted(actual)}",
                code="other_identity",
                correlation_id=response.correlation_id,
            )
        token = Token(
            access_token=response.access_token,
            expires_on=response.expires_on,
            not_before=response.not_before,
            resource=response.resource or request.resource,
            client_id=actual or client_id,
            token_type=response.token_type,
            refresh_token=response.refresh_token,
            ext_expires_in=response.ext_expires_in,
        )
        return FetchedToken(
            token,
            response.expires_in,
            response.object_id or claims.oid,
            correlation=response.correlation_id,
        )


class NodeIdentitySource:
    """Source of the node's own identities, for pods under an exception and for MIC: IMDS's response, unchanged.

    The caller decides whether a pod may have it (`nmi.identity`): any process on the VM could get the same token. The
    source builds its own request instead of forwarding the pod's, every call needs a permit of the governor, and it
    stores nothing.
    """

    def __init__(self, imds: ImdsSource, governor: Governor) -> None:
        self._imds = imds
        self._governor = governor

    async def token(self, request: TokenRequest, starter: str, within: float) -> RawResponse:
        """Return IMDS's response to *request*, with any status, within *within* seconds. *starter* is charged for it.

        The token is of the VM's own identity unless *request* names one. A forced refresh, and a report of a rejected
        token, skip IMDS's cache too. Raise AzureError and CongestedError.
        """
        named = {_PARAMETERS[request.selector]: request.selector_value} if request.selector in _PARAMETERS else {}
        return await self._imds.raw(
            request.resource,
            client_id=named.get("client_id", ""),
            object_id=named.get("object_id", ""),
            resource_id=named.get("resource_id", ""),
            xms_cc=request.xms_cc,
            bypass_cache=request.force_refresh or bool(request.rejected_sha256),
            within=within,
            permit=lambda: self._governor.token_permit(starter, within),
        )
