"""A server with manually created certificates of an old cluster, which lack the key identifiers of RFC 5280."""

import contextlib
import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typing_extensions import override

from podidentity_sandbox.certificates import KeyPair, load_key_pair


def certificates() -> tuple[str, KeyPair]:
    """Return an authority's certificate and a key pair that it signed for 127.0.0.1."""
    now = datetime.datetime.now(datetime.UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made by hand")])

    def signed(name: x509.Name, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> str:
        builder = x509.CertificateBuilder(authority, name, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(extension, critical=True)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = signed(authority, authority_key.public_key(), x509.BasicConstraints(ca=True, path_length=None))
    server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    return pem, KeyPair(signed(server, key.public_key(), here), private.decode())


class _Answers(http.server.BaseHTTPRequestHandler):
    body = b"{}"

    def respond(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_PATCH = do_DELETE = respond  # noqa: N815 - names of the standard library

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def old_server(body: bytes = b"{}") -> Iterator[tuple[str, int]]:
    """Yield the authority's certificate and the port of a server on 127.0.0.1 that returns *body* for each request."""
    authority, pair = certificates()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_key_pair(context, pair)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"body": body})) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield authority, server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def as_from_python_3_13_on(make: Callable[..., ssl.SSLContext]) -> Callable[..., ssl.SSLContext]:
    """Return *make*, which is `ssl.create_default_context`, with the strict verification of Python 3.13."""

    def strict(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        context = make(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    return strict
