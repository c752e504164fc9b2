"""The bench of service principals: the emulated AAD and API server, and the token source.

Both are in memory, for tests in virtual time, or on loopback over TLS. In memory the signing program runs in this
process.
"""

import asyncio
import base64
import datetime
import functools
import io
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self, cast
from unittest.mock import DEFAULT, patch

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import KeySerializationEncryption, NoEncryption, PrivateFormat, pkcs12
from cryptography.x509.oid import NameOID

import nmi.tokens.entra  # noqa: F401  urllib3, which it imports, binds a socket: not in a test in virtual time
from nmi.subprocesses import Finished
from nmi.tokens import signing_program
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.entra import new_session
from nmi.tokens.secrets import Secrets
from nmi.tokens.service_principal import ServicePrincipalSource
from nmi.tokens.sign_in import ProxyFor, no_proxy
from nmi.tokens.sign_ins import RETRY_DELAYS, SignIns
from nmi.tokens.source import FetchContext, FetchedToken, FetchRequest, IdentityKey, TokenKey, TokenSource, Workload
from podidentity.azure.clouds import PUBLIC, Cloud
from podidentity.azure.errors import AzureError
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta, SecretReference
from podidentity_sandbox.aad import Aad
from podidentity_sandbox.certificates import LOOPBACK, Authority
from podidentity_sandbox.directory import Directory, ManagedIdentity, ServicePrincipal
from podidentity_sandbox.kubeapi.server import KubeApi
from podidentity_sandbox.tokens import TokenMint, read_claims
from tests.support.memory_network import MemoryNetwork
from tests.support.waiting import LIMIT_SECONDS

NAMESPACE = "team-a"
RESOURCE = "https://vault.azure.net"
WITHIN = 20.0
"""The time limit of a fetch in virtual time. Over loopback it is that of all waits."""
SIGN_IN_HOSTS = ("login.microsoftonline.com", "login.microsoftonline.us", "login.chinacloudapi.cn")
AAD_HOST, AAD_PORT = "aad.example", 8443
API_SERVER = "http://kubernetes.default"
ISSUER = "https://kubernetes.default.svc"
MINT = TokenMint()
AUTHORITY = Authority()


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return a key; the same one for equal arguments, because its creation takes time."""
    return rsa.generate_private_key(65537, bits)


def certificate_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, subject: str = "app") -> x509.Certificate:
    """A self-signed certificate, valid for a day."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return (
        builder.not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def pfx_of(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None,
    certificate: x509.Certificate | None,
    password: bytes = b"",
) -> bytes:
    """A PKCS #12 file, encrypted if there is a password."""
    encryption: KeySerializationEncryption = NoEncryption()
    if password:
        builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(20_000).hmac_hash(hashes.SHA256())
        encryption = builder.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).build(password)
    return pkcs12.serialize_key_and_certificates(b"app", key, certificate, None, encryption)


@dataclass
class Bench:
    """An AAD, an API server and a token source. On loopback, pauses between retries are 0."""

    directory: Directory = field(default_factory=Directory)
    loopback: bool = False
    cloud: Cloud = PUBLIC
    proxy_for: ProxyFor = no_proxy
    rbac: bool = False

    def __post_init__(self) -> None:
        self.aad = Aad(self.directory, MINT)
        self.hosts: list[str] = []
        """The hosts of new connections to AAD in memory."""
        self.network = MemoryNetwork()
        self._servers: list[web.Server] = []
        self._signer = patch("nmi.tokens.service_principal.run", sign_in_this_process)
        self.observed: list[AzureError | None] = []
        self.failed_reads = 0
        self.pauses: list[float] = []

    async def start(self) -> None:
        self.kube = await asyncio.to_thread(KubeApi, rbac=self.rbac, issuer=ISSUER)
        for namespace in (NAMESPACE, "team-b"):
            self.kube.store.create("namespaces", {"metadata": {"name": namespace}})
        if self.loopback:
            await self._listen()
        else:
            self._serve_in_memory()
        self.source = self.new_source()

    async def _listen(self) -> None:
        context = await asyncio.to_thread(AUTHORITY.server_context, (*LOOPBACK, *SIGN_IN_HOSTS))
        await self.aad.start(ssl_context=context)
        await self.kube.start()
        access = ClusterAccess(self.kube.url, self.kube.authority.client_context(), self._authorization)
        self.client = Client(access, user_agent="test")
        self.session = new_session("test", aiohttp.TCPConnector(ssl=AUTHORITY.client_context()))

    def _serve_in_memory(self) -> None:
        self.aad.scheme, self.aad.host, self.aad.port = "https", AAD_HOST, AAD_PORT
        aad = self.aad.http()
        self._servers.append(aad)

        def accept(host: str) -> asyncio.Protocol:
            self.hosts.append(host)
            return aad()

        for host in SIGN_IN_HOSTS:
            self.network.serve(f"https://{host}", functools.partial(accept, host))
        self.network.serve(self.aad.url, functools.partial(accept, AAD_HOST))
        self.serve(API_SERVER, self.kube.http())
        access = ClusterAccess(API_SERVER, authorization=self._authorization)
        self.client = Client(access, user_agent="test", open_session=self.network.open_session)
        self.session = new_session("test", cast("Any", self.network.connector()))
        self._signer.start()

    def serve(self, origin: str, server: web.Server) -> None:
        """Serve *origin* in memory until the bench stops."""
        self._servers.append(server)
        self.network.serve(origin, server)

    def new_source(
        self, session: aiohttp.ClientSession | None = None, *, retry_delays: tuple[float, ...] = RETRY_DELAYS
    ) -> ServicePrincipalSource:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)
            await asyncio.sleep(0 if self.loopback else seconds)

        self.sign_ins = SignIns(
            lambda: session or self.session,
            proxy_for=self.proxy_for,
            retry_delays=retry_delays,
            observe=lambda _seconds, error: self.observed.append(error),
            random=lambda: 0.5,
            sleep=sleep,
        )
        return ServicePrincipalSource(self.policy, Secrets(self.client, count_failure=self._count), self.sign_ins)

    @property
    def policy(self) -> SignInPolicy:
        return SignInPolicy(self.cloud, allowed_endpoints=(self.aad.url,))

    async def issuer_document(self, url: str) -> bytes:
        """Return a document of the API server's issuer, as a relying party reads it."""
        return await self.client.request("GET", url.removeprefix(self.kube.issuer))

    def _count(self) -> None:
        self.failed_reads += 1

    async def _authorization(self) -> str:
        return f"Bearer {self.kube.token}"

    async def stop(self) -> None:
        await self.session.close()
        await self.client.aclose()
        await self.kube.stop()
        await self.aad.stop()
        for server in self._servers:
            await server.shutdown()
        if not self.loopback:
            self._signer.stop()

    def principal(self, secret: str) -> ServicePrincipal:
        """Create a service principal, and the Secret with its *secret*."""
        self.put_secret(k=secret.encode())
        return self.directory.add_principal(secret=secret)

    def put_secret(self, name: str = "sp", namespace: str = NAMESPACE, /, **values: bytes) -> str:
        """Store a Secret, or other values in the one there is; returns its version."""
        data = {key: base64.b64encode(value).decode() for key, value in values.items()}
        made = {"metadata": {"name": name, "namespace": namespace}, "type": "Opaque", "data": data}
        if any(secret["metadata"]["name"] == name for secret in self.kube.store.list("secrets", namespace)):
            self.kube.store.delete("secrets", name, namespace)
        stored = self.kube.store.create("secrets", made, namespace)
        return f"{stored['metadata']['uid']}/{stored['metadata']['resourceVersion']}"

    def pod(self, name: str, account: str) -> Workload:
        """Create a pod and its service account."""
        store = self.kube.store
        store.create("serviceaccounts", {"metadata": {"name": account, "namespace": NAMESPACE}})
        spec = {"serviceAccountName": account, "nodeName": "n0", "containers": [{"name": "c", "image": "i"}]}
        made = store.create("pods", {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
        return Workload(NAMESPACE, name, made["metadata"]["uid"], account)

    def identity(self, principal: ServicePrincipal | ManagedIdentity, **changed: Any) -> AzureIdentity:
        """An AzureIdentity for *principal*, of type 1 by default, with its Secret in the same namespace."""
        given = {
            "type": 1,
            "client_id": principal.client_id,
            "tenant_id": self.directory.tenant_id,
            "client_password": SecretReference(name="sp", namespace=NAMESPACE),
            "ad_endpoint": f"{self.aad.url}/",
            **changed,
        }
        return AzureIdentity(metadata=Meta(name="id", namespace=NAMESPACE), spec=AzureIdentitySpec(**given))

    async def fetch(
        self,
        identity: AzureIdentity,
        resource: str = RESOURCE,
        source: TokenSource | None = None,
        *,
        xms_cc: str = "",
        workload: Workload | None = None,
        **changed: Any,
    ) -> FetchedToken:
        """*changed*: values of the FetchContext."""
        key = TokenKey.of(IdentityKey(identity.spec.type), resource, xms_cc)
        context = FetchContext(**{"timeout_seconds": self.within, "call_permit": _no_permit, **changed})
        return await (source or self.source).fetch(FetchRequest(key, identity, workload=workload), context)

    @property
    def within(self) -> float:
        """The time limit of a fetch in seconds."""
        return LIMIT_SECONDS if self.loopback else WITHIN

    @property
    def secret_reads(self) -> int:
        return sum("/secrets/" in request.path for request in self.kube.requests)


class Hanging:
    """Requests of AAD whose path contains *part* are not answered before the block ends; the first *times* of them."""

    def __init__(self, bench: Bench, part: str = "", times: float = math.inf) -> None:
        self._bench, self._part, self._times = bench, part, times
        self.arrived, self._go_on = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Self:
        respond = self._bench.aad.handle

        async def hold(request: web.BaseRequest) -> web.StreamResponse:
            if self._part in request.path and self._times > 0:
                self._times -= 1
                self.arrived.set()
                await self._go_on.wait()
            return await respond(request)

        self._bench.aad.handle = hold  # type: ignore[method-assign]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._go_on.set()


async def sign_in_this_process(_words: object, *, given: str, seconds: float) -> Finished:
    """Run the signing program on *given* without a process, and so without its limits."""
    del seconds
    with (
        patch.multiple(signing_program, os=DEFAULT, resource=DEFAULT, warnings=DEFAULT),
        patch("sys.stdin", io.StringIO(given)),
        redirect_stdout(io.StringIO()) as output,
    ):
        signing_program.main()
    return Finished(0, output.getvalue(), "")


def _no_permit() -> Any:
    raise AssertionError("no service principal may use the governor of IMDS")


def claims(granted: FetchedToken) -> dict[str, Any]:
    return read_claims(granted.token.access_token)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    await bench.start()
    try:
        yield bench
    finally:
        await bench.stop()
