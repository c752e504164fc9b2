"""Type 0: tokens of a user-assigned identity on this VM, from IMDS by its client id."""

from typing import Final

from nmi.tokens.claims import claims_of
from nmi.tokens.source import UNWATCHED, Course, Granted, PolicyError, Slot, Workload
from nmi.tokens.token import Token
from podidentity.azure.errors import Refused
from podidentity.azure.imds import ImdsSource
from podidentity.resources import AzureIdentity

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


def ids(identity: AzureIdentity) -> tuple[str, str]:
    """The client id and the resource id that IMDS is asked by; one of them may be empty. Raises Refused for none."""
    client_id, resource_id = identity.spec.client_id.strip(), identity.spec.resource_id.strip()
    if not client_id and not resource_id:
        raise Refused("the AzureIdentity names neither a clientID nor a resourceID", code="identity_incomplete")
    return client_id, resource_id


class UserAssignedSource:
    """Never asks without naming an identity: IMDS would answer with the VM's own."""

    per_pod = False

    def __init__(self, imds: ImdsSource) -> None:
        self._imds = imds

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
        """As TokenSource.fetch. An answer that names another client id than the one asked for is refused."""
        client_id, resource_id = ids(identity)
        answer = await self._imds.token(
            resource,
            client_id=client_id,
            resource_id="" if client_id else resource_id,
            xms_cc=xms_cc,
            bypass_cache=bypass_cache,
            within=within,
            lag_seconds=lag_seconds,
            slot=slot,
        )
        if client_id and answer.client_id and answer.client_id.lower() != client_id.lower():
            raise Refused("IMDS answered with a token of another identity", code="other_identity")
        token = Token(
            access_token=answer.access_token,
            expires_on=answer.expires_on,
            not_before=answer.not_before,
            resource=answer.resource or resource,
            client_id=answer.client_id or client_id,
            token_type=answer.token_type,
            refresh_token=answer.refresh_token,
            ext_expires_in=answer.ext_expires_in,
        )
        return Granted(
            token,
            answer.expires_in,
            answer.object_id or claims_of(answer.access_token).oid,
            correlation=answer.correlation_id,
        )
