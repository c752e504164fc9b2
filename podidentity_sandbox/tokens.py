"""JSON Web Tokens of the sandbox, signed with RS256: the key of an issuer, and access tokens in Azure's form.

A client can read the claims of an access token, and the ARM emulator can identify the caller. A key exists as long as
the sandbox, and nothing outside the sandbox trusts it.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from podidentity_sandbox import base64url

TOKEN_SECONDS = 86_400  # a managed identity's token lives a day
CLOCK_SKEW_SECONDS = 300  # how far nbf lies back, as in Azure's tokens


class InvalidTokenError(Exception):
    """The token is not from this issuer, or has expired. The message states which."""


class SigningKey:
    """A new RSA key that signs tokens and recognises its own. Blocks for a tenth of a second while it is made."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        der = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id = base64url.encode(hashlib.sha256(der).digest())

    def sign(self, claims: Mapping[str, Any], **header: str) -> str:
        """Return a token with these claims, and *header* before the usual fields of its header."""
        header |= {"alg": "RS256", "kid": self.key_id}
        signed = ".".join(
            base64url.encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)
        )
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64url.encode(signature)}"

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of *token*. Raise InvalidTokenError if it is foreign or altered."""
        signed, _, signature = token.rpartition(".")
        try:
            self._key.public_key().verify(
                base64url.decode(signature), signed.encode("ascii"), padding.PKCS1v15(), hashes.SHA256()
            )
            return read_claims(token)
        except (InvalidSignature, ValueError, UnicodeError) as wrong:
            raise InvalidTokenError("the token's signature is not ours") from wrong

    def key_set(self) -> dict[str, Any]:
        """Return the public key as a JSON Web Key Set."""
        numbers = self._key.public_key().public_numbers()
        return {
            "keys": [
                {
                    "kty": "RSA",
                    "use": "sig",
                    "alg": "RS256",
                    "kid": self.key_id,
                    "n": base64url.encode(numbers.n.to_bytes(256, "big")),
                    "e": base64url.encode(numbers.e.to_bytes(3, "big")),
                }
            ]
        }


class TokenMint:
    """Makes access tokens and checks them. *clock* gives Unix seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.key = SigningKey()

    def mint(
        self,
        *,
        audience: str,
        client_id: str,
        object_id: str,
        tenant_id: str,
        resource_id: str = "",
        seconds: float = TOKEN_SECONDS,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a signed token for *audience* that names its identity in the claims appid, oid, tid and xms_mirid."""
        now = int(self._clock())
        claims: dict[str, Any] = {
            "aud": audience,
            "iss": f"https://sts.windows.net/{tenant_id}/",
            "iat": now,
            "nbf": now - CLOCK_SKEW_SECONDS,
            "exp": now + int(seconds),
            "appid": client_id,
            "idtyp": "app",
            "oid": object_id,
            "sub": object_id,
            "tid": tenant_id,
            "uti": uuid.uuid4().hex,
            "ver": "1.0",
            **(extra or {}),
        }
        if resource_id:
            claims["xms_mirid"] = resource_id
        return self.key.sign(claims, typ="JWT")

    def bearer_claims(self, authorization: str) -> dict[str, Any] | None:
        """Return the claims of the token in an Authorization header; None if it has none. Raise InvalidTokenError."""
        scheme, _, token = authorization.partition(" ")
        return self.verify(token) if scheme.lower() == "bearer" and token else None

    def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of *token*. Raise InvalidTokenError for a foreign, altered, early or expired one."""
        claims = self.key.claims(token)
        now = self._clock()
        if now >= claims["exp"]:
            raise InvalidTokenError("the token has expired")
        if now < claims["nbf"]:
            raise InvalidTokenError("the token is not valid yet")
        return claims


def read_claims(token: str) -> dict[str, Any]:
    """Return the claims of any JWT without a check of its signature. Raise ValueError for an invalid one."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("a JSON Web Token has three parts")
    claims = json.loads(base64url.decode(parts[1]))
    if not isinstance(claims, dict):
        raise ValueError("the claims of a JSON Web Token are an object")  # noqa: TRY004 - callers handle one kind
    return claims
