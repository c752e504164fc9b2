"""The HTTPS server of the sandbox's kubelets serves only clients that the cluster authenticates and authorizes."""

import datetime
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity_sandbox.certificates import KeyPair, load_key_pair
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.kubelet_server import NO_CERTIFICATE, KubeletServer, server_context

EXEC = "/exec/default/nmi/main?command=id&output=1"
LOGS = "/containerLogs/default/nmi/main"


class ClientAuthority:
    """A certificate authority of clients."""

    def __init__(self, name: str = "clients of the cluster") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(self._subject, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.pem = self._signed(certificate)

    def client(self, name: str, group: str) -> KeyPair:
        """Return a certificate for authentication as the user *name* with *group*."""
        fields = {NameOID.ORGANIZATION_NAME: group, NameOID.COMMON_NAME: name}
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in fields.items()])
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = self._builder(subject, key.public_key()).add_extension(usage, critical=False)
        encoding = (
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return KeyPair(self._signed(certificate), key.private_bytes(*encoding).decode())

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    def _signed(self, builder: x509.CertificateBuilder) -> str:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def authority() -> ClientAuthority:
    return ClientAuthority()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    api = KubeApi(rbac=True)
    await api.start()

    async def authorization() -> str:
        return f"Bearer {api.token}"

    client = Client(ClusterAccess(api.url, api.authority.client_context(), authorization), user_agent="test")
    yield client
    await client.aclose()
    await api.stop()


async def status_of(
    method: str, path: str, *, client: Client, trusted: str, presented: ssl.SSLContext
) -> tuple[int, str]:
    """Return status and text of a request to a server without a pod. Raise ClientError if the handshake fails."""
    server = KubeletServer([], client)
    await server.start(ssl_context=server_context(trusted))
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=presented)) as session,
            session.request(method, f"{server.url}{path}") as response,
        ):
            return response.status, await response.text()
    finally:
        await server.stop()


def presenting(authority: ClientAuthority | None, name: str = "", group: str = "") -> ssl.SSLContext:
    """Return the context of a client that presents a certificate of *authority*, or none."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if authority is not None:
        load_key_pair(context, authority.client(name, group))
    return context


@pytest.mark.parametrize(("method", "path"), [("POST", EXEC), ("GET", EXEC), ("GET", LOGS)])
async def test_a_client_without_a_certificate_is_refused(
    client: Client, authority: ClientAuthority, method: str, path: str
) -> None:
    presented = presenting(None)
    response = await status_of(method, path, client=client, trusted=authority.pem, presented=presented)
    assert response == (HTTPStatus.UNAUTHORIZED, NO_CERTIFICATE)


async def test_an_api_server_without_authorities_of_clients_makes_every_client_unknown(
    client: Client, authority: ClientAuthority
) -> None:
    presented = presenting(authority, "admin", "system:masters")
    response = await status_of("POST", EXEC, client=client, trusted="", presented=presented)
    assert response == (HTTPStatus.UNAUTHORIZED, NO_CERTIFICATE)


async def test_a_certificate_of_another_authority_is_refused(client: Client, authority: ClientAuthority) -> None:
    presented = presenting(ClientAuthority("another cluster"), "admin", "system:masters")
    with pytest.raises(aiohttp.ClientError):
        await status_of("POST", EXEC, client=client, trusted=authority.pem, presented=presented)


@pytest.mark.parametrize(("path", "verb"), [(EXEC, "create"), (LOGS, "get")])
async def test_a_user_without_permission_for_nodes_is_refused(
    client: Client, authority: ClientAuthority, path: str, verb: str
) -> None:
    presented = presenting(authority, "tenant", "developers")
    response = await status_of("GET", path, client=client, trusted=authority.pem, presented=presented)
    assert response == (HTTPStatus.FORBIDDEN, f'user "tenant" may not {verb} nodes/proxy\n')


async def test_a_bundle_may_have_comments_in_any_language(client: Client, authority: ClientAuthority) -> None:
    presented = presenting(authority, "admin", "system:masters")
    trusted = f"# Zertifikate für Clients\n{authority.pem}"
    status, _ = await status_of("GET", LOGS, client=client, trusted=trusted, presented=presented)
    assert status == HTTPStatus.NOT_FOUND, "there is no such pod"


@pytest.mark.parametrize("path", [EXEC, LOGS])
async def test_an_administrator_is_served(client: Client, authority: ClientAuthority, path: str) -> None:
    presented = presenting(authority, "admin", "system:masters")
    status, text = await status_of("GET", path, client=client, trusted=authority.pem, presented=presented)
    assert (status, text.startswith('pod "nmi"')) == (HTTPStatus.NOT_FOUND, True), "there is no such pod"
