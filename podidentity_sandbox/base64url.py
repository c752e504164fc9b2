"""Base64url without padding, as JSON Web Tokens use it (RFC 7515 section 2). Pure."""

import base64


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes. Raise ValueError if *text* is not ASCII or has an impossible length."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
