"""Type 0: tokens of a user-assigned identity on this VM, from IMDS.

In standard mode IMDS is asked by the client id, which MIC has compared with the one that Azure reports for the resource
id. In managed mode nobody has compared them: IMDS is asked by the resource id where there is one, and its answer is
compared with the client id.
"""

from typing import Final, NamedTuple

from nmi.tokens.claims import claims_of
from nmi.tokens.source import UNWATCHED, Course, Granted, PolicyError, Slot, Workload
from nmi.tokens.token import Token
from podidentity.azure.errors import Refused
from podidentity.azure.imds import ImdsSource
from podidentity.resources import AzureIdentity
from podidentity.telemetry.logs import redacted

CLIENT_ID_MAX: Final = 256
RESOURCE_ID_MAX: Final = 2048
"""Characters. A client id has 36 and an ARM id a few hundred; an AzureIdentity may hold a megabyte of anything."""


def check(identity: AzureIdentity) -> None:
    """Raises PolicyError: what can be no id is not sent to IMDS. Of what can be one, IMDS itself decides."""
    for field, text, most in (
        ("clientID", identity.spec.client_id, CLIENT_ID_MAX),
        ("resourceID", identity.spec.resource_id, RESOURCE_ID_MAX),
    ):
        stripped = text.strip()
        if len(stripped) > most or not (stripped.isascii() and stripped.isprintable()):
            raise PolicyError(
                "This identity's AzureIdentity is not one that a token can be fetched for; "
                "its owner must set it right.",
                f"AzureIdentity {'/'.join(identity.key)} has a {field} that is none: set it to the identity's own",
            )


class OtherIdentityError(Refused):
    """The AzureIdentity's clientID is not that of the identity that IMDS gave a token of."""


class Asking(NamedTuple):
    """By what IMDS is asked for an identity: exactly one of the two is not empty."""

    client_id: str
    resource_id: str


def asking(identity: AzureIdentity, *, by_resource_id: bool) -> Asking:
    """By what IMDS is asked: the client id, else the resource id; with *by_resource_id* the other way round.

    Raises Refused for an identity that has neither.
    """
    client_id, resource_id = identity.spec.client_id.strip(), identity.spec.resource_id.strip()
    if not client_id and not resource_id:
        raise Refused("the AzureIdentity names neither a clientID nor a resourceID", code="identity_incomplete")
    if by_resource_id:
        return Asking("" if resource_id else client_id, resource_id)
    return Asking(client_id, "" if client_id else resource_id)


class UserAssignedSource:
    """Never asks without naming an identity: IMDS would answer with the VM's own."""

    per_pod = False

    def __init__(self, imds: ImdsSource, *, by_resource_id: bool) -> None:
        """*by_resource_id*: as in `asking`; for managed mode."""
        self._imds = imds
        self._by_resource_id = by_resource_id

    def check(self, identity: AzureIdentity) -> None:
        """As TokenSource.check."""
        check(identity)

    def credential(self, identity: AzureIdentity) -> str:  # noqa: ARG002  its kind has none
        """As TokenSource.credential."""
        return ""

    async def fetch(
        self,
        identity: AzureIdentity,
        resource: str,
        *,
        xms_cc: str,
        bypass_cache: bool,
        within: float,
        lag_seconds: float,
        slot: Slot,
        course: Course = UNWATCHED,  # noqa: ARG002  the slot hears of it
        workload: Workload | None = None,  # noqa: ARG002  whose pod asks makes no difference
    ) -> Granted:
        """As TokenSource.fetch. Raises OtherIdentityError for a token of another client id than *identity* names.

        The client id is that of IMDS's answer, else that in the token. Where neither tells it (no IMDS of Azure's does
        so) there is nothing to compare, and the token is passed on.
        """
        client_id = identity.spec.client_id.strip()
        asked = asking(identity, by_resource_id=self._by_resource_id)
        answer = await self._imds.token(
            resource,
            client_id=asked.client_id,
            resource_id=asked.resource_id,
            xms_cc=xms_cc,
            bypass_cache=bypass_cache,
            within=within,
            lag_seconds=lag_seconds,
            slot=slot,
        )
        claims = claims_of(answer.access_token)
        told = answer.client_id or claims.client_id
        if client_id and told and told.lower() != client_id.lower():
            raise OtherIdentityError(
                f"the AzureIdentity names client id {redacted(client_id)}, and IMDS gave a token of client id "
                f"{redacted(told)}",
                code="other_identity",
                correlation_id=answer.correlation_id,
            )
        token = Token(
            access_token=answer.access_token,
            expires_on=answer.expires_on,
            not_before=answer.not_before,
            resource=answer.resource or resource,
            client_id=told or client_id,
            token_type=answer.token_type,
            refresh_token=answer.refresh_token,
            ext_expires_in=answer.ext_expires_in,
        )
        return Granted(
            token,
            answer.expires_in,
            answer.object_id or claims.oid,
            correlation=answer.correlation_id,
        )
