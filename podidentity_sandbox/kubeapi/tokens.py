"""The key of service accounts' tokens: RS256 JWTs, and the documents with which others verify them."""

import datetime
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from podidentity_sandbox import base64url

Document = dict[str, Any]


class TokenSigner:
    """Signer of service account tokens; it also verifies them."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        der = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._key_id = base64url.encode(hashlib.sha256(der).digest())

    def sign(self, claims: Document) -> str:
        """Return a token with these claims."""
        head = base64url.encode(json.dumps({"alg": "RS256", "kid": self._key_id}).encode())
        signed = f"{head}.{base64url.encode(json.dumps(claims).encode())}"
        return f"{signed}.{base64url.encode(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def claims(self, token: str, audience: str, now: datetime.datetime) -> Document | None:
        """Return the claims of a token that this signer issued for *audience* and that is valid now; else None."""
        try:
            head, claims, signature = token.split(".")
            self._key.public_key().verify(
                base64url.decode(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
            said: Document = json.loads(base64url.decode(claims))
        except (ValueError, InvalidSignature):
            return None
        in_time = said["nbf"] <= now.timestamp() < said["exp"]
        return said if in_time and audience in said["aud"] else None

    def configuration(self, issuer: str) -> Document:
        """Return the document at /.well-known/openid-configuration."""
        return {
            "issuer": issuer,
            "jwks_uri": f"{issuer}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def key_set(self) -> Document:
        """Return the document at /openid/v1/jwks."""
        numbers = self._key.public_key().public_numbers()
        key = {
            "use": "sig",
            "kty": "RSA",
            "kid": self._key_id,
            "alg": "RS256",
            "n": base64url.encode(numbers.n.to_bytes(256, "big")),
            "e": base64url.encode(numbers.e.to_bytes(3, "big")),
        }
        return {"keys": [key]}
