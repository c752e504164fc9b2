"""The signing program: it reads a PKCS #12 file and signs client assertions with the key in it.

`nmi.tokens.service_principal` runs it as a process, one per fetch. Reading a PKCS #12 file holds Python's GIL for a
time that the file's author chooses (the work factor of its password is a number in the file), and checking a large key
takes seconds: inside NMI, that would delay every pod of the node. The process has low priority and limits for memory
and CPU time, and the private key never enters NMI's own process.

The program imports no other module of this project: it runs as a file, isolated from the environment. It reads one
JSON object and writes one.
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
"""A file from openssl or Key Vault takes a third of a second."""
MEMORY = 768 * 1024 * 1024
"""Bytes of address space, most of which are never used."""
KEY_BITS = (2048, 4096)
"""The key sizes that Azure accepts and creates."""
CERTIFICATES_MAX = 8
ASSERTION_SECONDS = 600
"""Azure recommends five to ten minutes."""
SKEW_SECONDS = 60
"""The tolerated lead of this node's clock over Azure's."""


class UnfitError(Exception):
    """The file is not usable. The text contains the cause and nothing of the file."""


def signed(
    pfx: bytes, password: bytes, client_id: str, audiences: Iterable[str], *, adfs: bool, now: float
) -> list[str]:
    """Return a client assertion (RFC 7523) for each of *audiences*. Raise UnfitError.

    For Entra ID it uses PS256 and the SHA-256 thumbprint; for AD FS RS256 and the SHA-1 thumbprint, which are the only
    ones that AD FS supports. It contains the certificates (x5c), for applications that trust a subject and an issuer
    instead of one certificate.
    """
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  after the limits
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs12  # noqa: PLC0415

    try:
        key, certificate, others = pkcs12.load_key_and_certificates(pfx, password or None)
    except Exception:  # noqa: BLE001  no part of the file may appear in a message
        raise UnfitError("is not a PKCS #12 (PFX) file that its password opens") from None
    if key is None or certificate is None:
        raise UnfitError("is a PKCS #12 file without a certificate and its private key: export it with both")
    if not isinstance(key, rsa.RSAPrivateKey):
        raise UnfitError("contains a key that is not RSA; Azure accepts RSA only")
    if not KEY_BITS[0] <= key.key_size <= KEY_BITS[1]:
        raise UnfitError(f"contains an RSA key of {key.key_size} bits; Azure accepts {KEY_BITS[0]} to {KEY_BITS[1]}")
    chain = [certificate, *others][:CERTIFICATES_MAX]
    header: dict[str, Any] = {"typ": "JWT", "alg": "RS256" if adfs else "PS256"}
    if adfs:
        header["x5t"] = _encoded(certificate.fingerprint(hashes.SHA1()))  # noqa: S303  a name, not a proof
    else:
        header["x5t#S256"] = _encoded(certificate.fingerprint(hashes.SHA256()))
    header["x5c"] = [base64.b64encode(cert.public_bytes(Encoding.DER)).decode() for cert in chain]
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
    """Read a request from standard input and write the response to standard output."""
    # The file's author chooses the amount of work, which must not delay the requests of other pods.
    os.nice(5)
    # A core file would contain the private key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")  # cryptography warns about odd serial numbers, and stderr goes to NMI
    request = json.load(sys.stdin)
    try:
        response: dict[str, Any] = {
            "assertions": signed(
                base64.b64decode(request["pfx"]),
                base64.b64decode(request["password"]),
                request["client_id"],
                request["audiences"],
                adfs=request["adfs"],
                now=time.time(),
            )
        }
    except UnfitError as error:
        response = {"problem": str(error)}
    json.dump(response, sys.stdout)


if __name__ == "__main__":
    main()
