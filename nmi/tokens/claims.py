"""The few claims of a token that are looked at. Tokens are opaque by contract: what cannot be read is absent.

Only for tokens that Azure, or the API server, has itself just given us, whose signature there is no need to check.
"""

import base64
import re
from typing import Final

import msgspec

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Claims(msgspec.Struct, frozen=True):
    """What there may be of interest; empty or 0 where it is not there."""

    oid: str = ""
    appid: str = ""
    azp: str = ""
    nbf: int = 0
    iss: str = ""
    sub: str = ""

    @property
    def client_id(self) -> str:
        """Of the application that the token was made for: `appid` in tokens of version 1.0, `azp` in those of 2.0."""
        return self.appid or self.azp


_claims: Final = msgspec.json.Decoder(Claims)
_NONE: Final = Claims()


def claims_of(token: str) -> Claims:
    """The claims of a JWT, none of anything else. An `oid` that is no UUID is left out."""
    parts = token.split(".")
    if len(parts) != 3:
        return _NONE
    try:
        found = _claims.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return _NONE
    return found if _UUID.fullmatch(found.oid) else msgspec.structs.replace(found, oid="")
