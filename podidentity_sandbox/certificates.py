"""A certificate authority for one sandbox, and the TLS contexts of its servers and clients.

It creates keys and certificates in memory, valid for a few days, for names and loopback addresses only. No real cluster
trusts them, and no key outlives the process that created it. OpenSSL reads a key from a file only, so it gets an
anonymous file in memory.
"""

import datetime
import ipaddress
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS_VALID: Final = 7
"""Longer than a sandbox runs, and short enough that a leaked key soon has no value."""

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both as PEM text."""

    certificate: str
    key: str = field(repr=False)


class Authority:
    """A new certificate authority with a P-256 key. A client that trusts `pem` trusts all its certificates."""

    def __init__(self, name: str = "podidctl sandbox") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            self._key.public_key(),
            issuer=None,
            issuer_key=self._key,
            extensions=[
                (x509.BasicConstraints(ca=True, path_length=0), True),
                (_key_usage(signs_certificates=True), True),
            ],
        )

    @property
    def pem(self) -> str:
        """The authority's certificate, for clients' trust stores."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def server(self, hosts: Iterable[str] = LOOPBACK) -> KeyPair:
        """Return a serving certificate for *hosts*: names or IP addresses, at least one."""
        names = list(hosts)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]),
            key.public_key(),
            issuer=self._certificate,
            issuer_key=self._key,
            extensions=[
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (_key_usage(signs_certificates=False), True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
                (x509.SubjectAlternativeName([_general_name(name) for name in names]), False),
            ],
        )
        return KeyPair(
            certificate.public_bytes(serialization.Encoding.PEM).decode(),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
        )

    def server_context(self, hosts: Iterable[str] = LOOPBACK) -> ssl.SSLContext:
        """Return a context that serves a new certificate for *hosts*."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_key_pair(context, self.server(hosts))
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts this authority alone."""
        return ssl.create_default_context(cadata=self.pem)


def load_key_pair(context: ssl.SSLContext, key_pair: KeyPair) -> None:
    """Let *context* show *key_pair* to its peers."""
    file = os.memfd_create("key pair")
    try:
        os.set_blocking(file, False)  # in memory: does not block, which the detector of blocking calls cannot see
        os.write(file, (key_pair.certificate + key_pair.key).encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def _sign(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # An hour earlier: the clocks of machines that share a sandbox can differ.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS_VALID))
        # Python 3.13's strict verification requires both identifiers (RFC 5280, 4.2.1.1 and 4.2.1.2).
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
