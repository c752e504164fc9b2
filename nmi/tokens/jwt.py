"""The JWT claims that NMI reads. A token is opaque by contract: a claim that cannot be read counts as absent.

Only for tokens that Azure or the API server has just returned: their signature needs no check.
"""

import base64
import re
from typing import Final

import msgspec

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class JwtClaims(msgspec.Struct, frozen=True):
    """The claims that NMI uses; empty or 0 if absent."""

    oid: str = ""
    appid: str = ""
    azp: str = ""
    nbf: int = 0
    iss: str = ""
    sub: str = ""

    @property
    def client_id(self) -> str:
        """The application that the token is for: `appid` in tokens of version 1.0, `azp` in version 2.0."""
        return self.appid or self.azp


_decoder: Final = msgspec.json.Decoder(JwtClaims)
_NONE: Final = JwtClaims()


def decode_claims(token: str) -> JwtClaims:
    """Return the claims of a JWT, and empty claims for any other text. Omit an `oid` that is not a UUID."""
    parts = token.split(".")
    if len(parts) != 3:
        return _NONE
    try:
        found = _decoder.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return _NONE
    return found if _UUID.fullmatch(found.oid) else msgspec.structs.replace(found, oid="")
