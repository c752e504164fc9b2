"""TLS with the certificates of an image, and the certificate of a service principal in nmi's."""

import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import PrivateFormat, pkcs12

from podidentity_sandbox.certificates import Authority
from tests.support.nmi.tokens.sign_in_bench import certificate_of, rsa_key
from tests.system.images.conftest import Image

CONNECT = """
import json, socket, ssl, sys
port, more = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context()
public = context.cert_store_stats()["x509_ca"]
if more:
    context.load_verify_locations(more)
try:
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname="127.0.0.1") as tls:
        outcome = tls.version()
except ssl.SSLCertVerificationError as error:
    outcome = error.verify_message
print(json.dumps([public, outcome]))
"""


@contextlib.contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """Accept one connection. Yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def test_the_images_certificates_are_the_public_ones_and_no_others(image: Image, tmp_path: Path) -> None:
    authority = Authority()
    with tls_server(authority.server_context()) as port:
        public, outcome = image.python("-c", CONNECT, str(port), "")
    assert public > 100
    assert outcome == "unable to get local issuer certificate"
    file = tmp_path / "ca.crt"
    file.write_text(authority.pem)
    for folder in (file, *list(file.parents)[:3]):
        folder.chmod(0o755)
    with tls_server(authority.server_context()) as port:
        _, outcome = image.python("-c", CONNECT, str(port), str(file))
    assert outcome == "TLSv1.3"


@pytest.mark.parametrize(
    "scheme", [pkcs12.PBES.PBESv2SHA256AndAES256CBC, pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC], ids=["new", "old"]
)
def test_nmis_image_signs_with_the_certificate_of_a_service_principal(scheme: pkcs12.PBES) -> None:
    image = Image("nmi")
    (program,) = image.site.glob("nmi/tokens/signing_program.py")
    builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(2_000).hmac_hash(hashes.SHA256())
    pfx = pkcs12.serialize_key_and_certificates(
        b"app", rsa_key(), certificate_of(rsa_key()), None, builder.key_cert_algorithm(scheme).build(b"secret")
    )
    request = {
        "pfx": base64.b64encode(pfx).decode(),
        "password": base64.b64encode(b"secret").decode(),
        "client_id": "app",
        "audiences": ["https://login.microsoftonline.com/t/oauth2/v2.0/token"],
        "adfs": False,
    }
    output = image.python(f"/{program.relative_to(image.root)}", given=json.dumps(request))
    (assertion,) = output["assertions"]
    assert assertion.count(".") == 2
