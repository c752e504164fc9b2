"""Verification of the proof with which an application signs in at the sandbox's AAD: a secret, or a signed assertion.

Signature, certificate, audience and times are verified as in AAD, with AAD's error numbers.
"""

import base64
import json
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from podidentity_sandbox import base64url
from podidentity_sandbox.directory import AppRegistration
from podidentity_sandbox.tokens import read_claims

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SKEW_SECONDS = 300  # how far clocks may be apart
LIFETIME_MAX = 86_400  # an assertion for longer than a day is none

_ALGORITHMS: Mapping[str, padding.AsymmetricPadding] = {
    "RS256": padding.PKCS1v15(),
    "PS256": padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size),
}
_THUMBPRINTS: Mapping[str, hashes.HashAlgorithm] = {"x5t": hashes.SHA1(), "x5t#S256": hashes.SHA256()}  # noqa: S303


class RefusedError(Exception):
    """A request that Entra ID refuses with 400, or with *status*. *number* is AAD's for the reason."""

    def __init__(self, error: str, number: int, sentence: str, *, status: int = 400) -> None:
        self.error = error
        self.number = number
        self.status = status
        super().__init__(sentence)


class NotProvenError(RefusedError):
    """The application did not prove itself."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__("invalid_client", number, sentence, status=401)


def is_by_another(assertion: str, client_id: str) -> bool:
    """Return whether the issuer of *assertion* is not the client. Nothing is verified."""
    try:
        return str(read_claims(assertion)["iss"]).lower() != client_id.lower()
    except (KeyError, ValueError, RecursionError):
        return False


def prove(application: AppRegistration, form: Mapping[str, str], audience: str, now: float) -> str:
    """Return the kind of proof in *form*, sent to the URL *audience*. Raise NotProvenError."""
    assertion, secret = form.get("client_assertion", ""), form.get("client_secret", "")
    if assertion:
        return _assertion(application, assertion, audience, now)
    if not secret:
        raise NotProvenError(7000218, "The request body must contain 'client_assertion' or 'client_secret'.")
    for registered, since in application.secrets.items():
        if compare_digest(secret.encode(), registered.encode()) and since <= now:
            return "secret"
    raise NotProvenError(7000215, f"Invalid client secret provided for app '{application.client_id}'.")


def _assertion(application: AppRegistration, assertion: str, audience: str, now: float) -> str:
    parts = assertion.split(".")
    try:
        header, claims = (json.loads(base64url.decode(part)) for part in parts[:2])
        signature = base64url.decode(parts[2])
        algorithm = str(header["alg"])
        scheme = _ALGORITHMS[algorithm]
        texts = {key: str(claims[key]) for key in ("aud", "iss", "sub", "jti")}
        begins, ends = float(claims["nbf"]), float(claims["exp"])
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as wrong:
        raise NotProvenError(50027, "JWT token is invalid or malformed.") from wrong
    certificate = _certificate(application, header)
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise NotProvenError(50027, "JWT token is invalid or malformed.")
    try:
        key.verify(signature, f"{parts[0]}.{parts[1]}".encode(), scheme, hashes.SHA256())
    except InvalidSignature as wrong:
        raise NotProvenError(700027, "Client assertion contains an invalid signature.") from wrong
    if not certificate.not_valid_before_utc.timestamp() <= now < certificate.not_valid_after_utc.timestamp():
        raise NotProvenError(700027, "Client assertion contains an invalid signature. [Reason - The key has expired.]")
    if texts["aud"].lower() != audience.lower():
        raise NotProvenError(700023, "Client assertion audience claim does not match Realm issuer.")
    if not texts["iss"].lower() == texts["sub"].lower() == application.client_id.lower():
        raise NotProvenError(700021, "Client assertion application identifier doesn't match 'client_id' parameter.")
    if not (begins - SKEW_SECONDS <= now < ends + SKEW_SECONDS and 0 < ends - begins <= LIFETIME_MAX):
        raise NotProvenError(700024, "Client assertion is not within its valid time range.")
    return algorithm


def _certificate(application: AppRegistration, header: Mapping[str, Any]) -> x509.Certificate:
    """Return the certificate that the assertion names as its signer, if the application may use it."""
    name = next((name for name in _THUMBPRINTS if name in header), "")
    thumbprint = str(header.get(name, "")).rstrip("=")
    for certificate in application.certificates:
        if name and _thumbprint(certificate, name) == thumbprint:
            return certificate
    for text in list(header.get("x5c", ()))[:1]:
        try:
            brought = x509.load_der_x509_certificate(base64.b64decode(text))
        except ValueError as wrong:
            raise NotProvenError(50027, "JWT token is invalid or malformed.") from wrong
        if brought.subject.rfc4514_string() in application.subjects and _thumbprint(brought, name) == thumbprint:
            return brought
    raise NotProvenError(
        700027,
        "Client assertion contains an invalid signature. [Reason - The key was not found., Thumbprint of key used by "
        f"client: '{thumbprint[:64]}']",
    )


def _thumbprint(certificate: x509.Certificate, name: str) -> str:
    digest = certificate.fingerprint(_THUMBPRINTS[name]) if name else b""
    return base64url.encode(digest)
