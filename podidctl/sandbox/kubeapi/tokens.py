"""Service account tokens: TokenRequest answered with a real RS256 JWT, and the documents by which others check it."""

import base64
import datetime
import hashlib
import json
import uuid
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from podidctl.sandbox.kubeapi.statuses import bad_request

Document = dict[str, Any]

SHORTEST_SECONDS: Final = 600
"""As the real server: a token that lives for less than ten minutes is refused."""
DEFAULT_SECONDS: Final = 3600


class TokenSigner:
    """Signs and checks tokens with a key of its own. *issuer* is the server's URL."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        der = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._key_id = _base64(hashlib.sha256(der).digest())

    def answer(
        self,
        issuer: str,
        account: Document,
        request: Document,
        *,
        pod: Document | None,
        now: datetime.datetime,
    ) -> Document:
        """The TokenRequest with its status for a service account. Raises StatusError 400."""
        spec = dict(request.get("spec") or {})
        spec["audiences"] = spec.get("audiences") or [issuer]
        spec["expirationSeconds"] = spec.get("expirationSeconds") or DEFAULT_SECONDS
        if spec["expirationSeconds"] < SHORTEST_SECONDS:
            raise bad_request("spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes")
        expires = now + datetime.timedelta(seconds=spec["expirationSeconds"])
        metadata = account["metadata"]
        about: Document = {
            "namespace": metadata["namespace"],
            "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
        }
        if pod is not None:
            about["pod"] = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            if node := pod["spec"].get("nodeName"):
                about["node"] = {"name": node}
        claims = {
            "aud": spec["audiences"],
            "exp": int(expires.timestamp()),
            "iat": int(now.timestamp()),
            "iss": issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": about,
            "nbf": int(now.timestamp()),
            "sub": f"system:serviceaccount:{metadata['namespace']}:{metadata['name']}",
        }
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
            "spec": {"boundObjectRef": None} | spec,
            "status": {
                "token": self._sign(claims),
                "expirationTimestamp": expires.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
        }

    def subject(self, token: str, issuer: str, now: datetime.datetime) -> str:
        """Whose token this is, if it is one of ours, for this server, and has not run out; else an empty string."""
        try:
            head, claims, signature = token.split(".")
            self._key.public_key().verify(
                _bytes(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
            said = json.loads(_bytes(claims))
        except (ValueError, InvalidSignature):
            return ""
        in_time = said["nbf"] <= now.timestamp() < said["exp"]
        return str(said["sub"]) if in_time and issuer in said["aud"] else ""

    def configuration(self, issuer: str) -> Document:
        """The answer at /.well-known/openid-configuration."""
        return {
            "issuer": issuer,
            "jwks_uri": f"{issuer}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def key_set(self) -> Document:
        """The answer at /openid/v1/jwks."""
        numbers = self._key.public_key().public_numbers()
        key = {
            "use": "sig",
            "kty": "RSA",
            "kid": self._key_id,
            "alg": "RS256",
            "n": _base64(numbers.n.to_bytes(256, "big")),
            "e": _base64(numbers.e.to_bytes(3, "big")),
        }
        return {"keys": [key]}

    def _sign(self, claims: Document) -> str:
        head = _base64(json.dumps({"alg": "RS256", "kid": self._key_id}).encode())
        signed = f"{head}.{_base64(json.dumps(claims).encode())}"
        return f"{signed}.{_base64(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
