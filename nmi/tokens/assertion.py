"""A program of its own: reads a PKCS #12 file and signs, with the key in it, what an application proves itself with.

`nmi.tokens.certificate` runs it, one process for each fetch. Reading such a file holds Python's lock for as long as its
author likes (the work factor of its password is a number in the file), and checking a large key takes seconds: inside
NMI that would be a pause of every pod on the node. So it happens here, with little priority, memory and CPU time, and
the private key never enters NMI itself.

Imports nothing of ours: it is run as a file, isolated from the environment. One JSON object in, one out.
"""

import base64
import json
import os
import resource
import sys
import time
import uuid
import warnings
from collections.abc import Iterable
from typing import Any

CPU_SECONDS = 3
"""A file of openssl's or Key Vault's making takes a third of one."""
MEMORY = 768 * 1024 * 1024
"""Bytes of address space, most of which are never touched."""
KEY_BITS = (2048, 4096)
"""What Azure takes, and what it makes."""
CERTIFICATES_MAX = 8
ASSERTION_SECONDS = 600
"""Azure's own advice is five to ten minutes."""
SKEW_SECONDS = 60
"""How far this node's clock may be ahead of Azure's."""


class UnfitError(Exception):
    """The file cannot serve; the text says why and holds nothing of it."""


def signed(
    pfx: bytes, password: bytes, client_id: str, audiences: Iterable[str], *, adfs: bool, now: float
) -> list[str]:
    """A client assertion (RFC 7523) for each of *audiences*. Raises UnfitError.

    PS256 and the SHA-256 thumbprint for Entra ID; RS256 and the SHA-1 thumbprint for AD FS, which knows no other. The
    certificates go along (x5c), for applications that trust a subject and an issuer instead of one certificate.
    """
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  after the limits
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs12  # noqa: PLC0415

    try:
        key, certificate, others = pkcs12.load_key_and_certificates(pfx, password or None)
    except Exception:  # noqa: BLE001  from here on nothing of the file may get into a message
        raise UnfitError("is no PKCS #12 (PFX) file that its password opens") from None
    if key is None or certificate is None:
        raise UnfitError("is a PKCS #12 file without a certificate and its private key: export it with both")
    if not isinstance(key, rsa.RSAPrivateKey):
        raise UnfitError("holds a key that is not RSA, and Azure takes no other")
    if not KEY_BITS[0] <= key.key_size <= KEY_BITS[1]:
        raise UnfitError(f"holds an RSA key of {key.key_size} bits: Azure takes {KEY_BITS[0]} to {KEY_BITS[1]}")
    chain = [certificate, *others][:CERTIFICATES_MAX]
    header: dict[str, Any] = {"typ": "JWT", "alg": "RS256" if adfs else "PS256"}
    if adfs:
        header["x5t"] = _encoded(certificate.fingerprint(hashes.SHA1()))  # noqa: S303  a name, not a proof
    else:
        header["x5t#S256"] = _encoded(certificate.fingerprint(hashes.SHA256()))
    header["x5c"] = [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in chain]
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if not adfs:
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
    assertions = []
    for audience in audiences:
        claims = {
            "aud": audience,
            "iss": client_id,
            "sub": client_id,
            "jti": str(uuid.uuid4()),
            "iat": int(now),
            "nbf": int(now) - SKEW_SECONDS,
            "exp": int(now) + ASSERTION_SECONDS,
        }
        body = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        assertions.append(f"{body}.{_encoded(key.sign(body.encode(), scheme, hashes.SHA256()))}")
    return assertions


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main() -> None:
    """Answer standard input on standard output."""
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")  # cryptography warns of odd serial numbers, and stderr is somebody's log
    asked = json.load(sys.stdin)
    try:
        answer: dict[str, Any] = {
            "assertions": signed(
                base64.b64decode(asked["pfx"]),
                base64.b64decode(asked["password"]),
                asked["client_id"],
                asked["audiences"],
                adfs=asked["adfs"],
                now=time.time(),
            )
        }
    except UnfitError as error:
        answer = {"problem": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
