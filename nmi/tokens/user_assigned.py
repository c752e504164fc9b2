"""Type 0: tokens of a user-assigned identity on this VM, from IMDS by its client id."""

import base64
import binascii
import re
from typing import Final

import msgspec

from nmi.tokens.source import Granted, Slot
from nmi.tokens.token import Token
from podidentity.azure.errors import Refused
from podidentity.azure.imds import ImdsSource
from podidentity.resources import AzureIdentity

TYPE: Final = 0

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class UserAssignedSource:
    """Never asks without naming an identity: IMDS would answer with the VM's own."""

    def __init__(self, imds: ImdsSource) -> None:
        self._imds = imds

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
    ) -> Granted:
        """As TokenSource.fetch. An answer that names another client id than the one asked for is refused."""
        client_id, resource_id = identity.spec.client_id.strip(), identity.spec.resource_id.strip()
        if not client_id and not resource_id:
            raise Refused("the AzureIdentity names neither a clientID nor a resourceID", code="identity_incomplete")
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
        return Granted(token, answer.expires_in, answer.object_id or _object_id(answer.access_token))


class _Claims(msgspec.Struct):
    oid: str = ""


_claims: Final = msgspec.json.Decoder(_Claims)


def _object_id(access_token: str) -> str:
    """The claim `oid` of a JWT that IMDS itself gave us (hence unverified), or empty: tokens are opaque by contract."""
    parts = access_token.split(".")
    if len(parts) != 3:
        return ""
    try:
        oid = _claims.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))).oid
    except (ValueError, binascii.Error):
        return ""
    return oid if _UUID.fullmatch(oid) else ""
