"""The steps for clusters outside Azure (docs/federated-identities.md) with a real kube-apiserver and its flags.

Entra ID reaches the issuer's web server only, and never the API server.
"""

import asyncio
import json
import subprocess
import uuid
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typing_extensions import override

from nmi.error_refusals import refusal_of
from nmi.tokens.assertions import Assertions
from nmi.tokens.federated import FederatedSource
from nmi.tokens.source import FetchedToken, Workload
from podidentity.azure.errors import Refused
from podidentity.azure.federation import DIRECT_AUDIENCE, Exchange
from podidentity.kube.client import Client
from podidentity.resources import PODS
from podidentity_sandbox.certificates import LOOPBACK, Authority
from podidentity_sandbox.directory import FederatedCredential
from podidentity_sandbox.federation import CONFIGURATION
from podidentity_sandbox.issuing import KEY_SET
from podidentity_sandbox.serving import HttpService, free_ports
from tests.support.direct_access import direct_access
from tests.support.nmi.tokens.sign_in_bench import Bench, claims, running
from tests.support.testplane import up
from tests.system.node.processes import wait_for

pytestmark = [pytest.mark.plane, pytest.mark.timeout(400)]

ACCOUNT: Final = "builder"
START_SECONDS: Final = 90
STOP_SECONDS: Final = 30


class SecondApiServer:
    """A second kube-apiserver of the control plane: the same data and certificates, other flags for service accounts.

    It runs in the block of `running` only.
    """

    def __init__(self, plane: up.Plane) -> None:
        self.plane = plane
        self._port = free_ports(1)[0]
        self.url = f"https://127.0.0.1:{self._port}"
        self._folder = Path(plane.directory)

    @contextmanager
    def running(self, *flags: str) -> Iterator[None]:
        """Start the server with *flags*, and stop it at the end of the block."""
        words = [
            *(str(up.build()), "kube-apiserver", f"--etcd-servers={(self._folder / 'etcd-url').read_text()}"),
            *("--bind-address=127.0.0.1", f"--secure-port={self._port}", "--endpoint-reconciler-type=none"),
            f"--tls-cert-file={self._folder / 'server.crt'}",
            f"--tls-private-key-file={self._folder / 'server.key'}",
            *(f"--client-ca-file={self._folder / 'ca.crt'}", f"--token-auth-file={self._folder / 'tokens.csv'}"),
            *("--authorization-mode=RBAC", "--anonymous-auth=false", "--service-cluster-ip-range=10.96.0.0/16"),
            *("--shutdown-watch-termination-grace-period=1s", *flags),
        ]
        log = self._folder / "second-log"
        with log.open("ab") as output:
            process = subprocess.Popen(words, stdout=output, stderr=output)

        def is_ready() -> bool:
            assert process.poll() is None, f"it ended: {log.read_text(errors='replace')[-2000:]}"
            return self.kubectl("get", "--raw", "/readyz", check=False).returncode == 0

        try:
            wait_for(is_ready, START_SECONDS, "the second API server is not ready")
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kubectl(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[bytes]":
        words = [str(up.tool("kubectl")), f"--kubeconfig={self.plane.kubeconfig}", f"--server={self.url}", *arguments]
        return subprocess.run(words, check=check, capture_output=True, timeout=60)

    def accepts(self, token: str) -> bool:
        """Return whether the server accepts a token of a service account."""
        # kubectl prefers the client certificate of a kubeconfig to --token.
        api = up.Api(self.url, self.plane.ca, token)
        try:
            api("GET", "/apis")
        except RuntimeError as error:
            if ": 401 " in str(error):
                return False
            raise
        finally:
            api.close()
        return True


class PublicIssuer(HttpService):
    """A web server with an issuer's two documents, as public storage serves them."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.requested: list[str] = []

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requested.append(request.path)
        if request.path not in self.files:
            return web.Response(status=404)
        return web.Response(body=self.files[request.path], content_type="application/json")


class OwnIssuer:
    """A cluster with its own issuer, a pod, and an identity that trusts the pod's service account."""

    def __init__(
        self, plane: up.Plane, bench: Bench, public: PublicIssuer, session: aiohttp.ClientSession, folder: Path
    ) -> None:
        self.plane = plane
        self.bench = bench
        self.public = public
        self.server = SecondApiServer(plane)
        self.namespace = f"issuer-{uuid.uuid4().hex[:8]}"
        self.former_key = Path(plane.directory) / "sa.key"
        self.next_key = folder / "next.key"
        key = rsa.generate_private_key(65537, 2048)
        self.next_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        self.managed = bench.directory.add_identity("/subscriptions/s/own")
        subject = f"system:serviceaccount:{self.namespace}:{ACCOUNT}"
        bench.directory.federate(self.managed.client_id, FederatedCredential(public.url, subject, DIRECT_AUDIENCE))
        self._session = session
        bench.aad.issuers.fetch = self._fetch_as_azure

        named: dict[str, Any] = {"metadata": {"name": ACCOUNT}}
        plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        self._accounts = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        plane.api("POST", self._accounts, named)
        spec = {"serviceAccountName": ACCOUNT, "automountServiceAccountToken": False}
        pod = named | {"spec": {**spec, "containers": [{"name": "c", "image": "i"}]}}
        uid = plane.api("POST", PODS.path(self.namespace), pod)["metadata"]["uid"]
        self._workload = Workload(self.namespace, ACCOUNT, uid, ACCOUNT)

    def flags(self, signing: Path, *others: Path, former_issuer: bool = False) -> list[str]:
        """Return the flags of step 2. Tokens are signed with the key *signing* and verified with all of the keys."""
        return [
            f"--service-account-issuer={self.public.url}",
            *([f"--service-account-issuer={self.plane.server}"] if former_issuer else []),
            f"--service-account-jwks-uri={self.public.url}{KEY_SET}",
            f"--service-account-signing-key-file={signing}",
            *(f"--service-account-key-file={each}" for each in (signing, *others)),
        ]

    def publish(self) -> None:
        """Do step 3."""
        self.public.files = {
            path: self.server.kubectl("get", "--raw", path).stdout for path in (CONFIGURATION, KEY_SET)
        }

    @property
    def published_keys(self) -> list[dict[str, Any]]:
        return list(json.loads(self.public.files[KEY_SET])["keys"])

    async def fetch(self, api_server: str = "") -> FetchedToken:
        """Return a token of the pod's identity, whose assertion is from *api_server*, by default the second one."""
        access = direct_access(api_server or self.server.url, self.plane.ca, self.plane.token)
        async with Client(access, user_agent="test") as client:
            assertions = {Exchange.DIRECT: Assertions(client, DIRECT_AUDIENCE)}
            source = FederatedSource(self.bench.policy, assertions, self.bench.sign_ins, enabled=True)
            identity = self.bench.identity(self.managed, type=3, client_password=None)
            return await self.bench.fetch(identity, source=source, workload=self._workload)

    async def refusal(self, api_server: str = "") -> str:
        """Return the sentence and the detail of the refusal of a token."""
        with pytest.raises(Refused) as refused:
            await self.fetch(api_server)
        refusal = refusal_of(refused.value)
        return f"{refusal.sentence} {refusal.detail}"

    def token_for_the_api_server(self) -> str:
        """Return a token of the service account from the control plane's first server, with the former issuer."""
        audiences = {"spec": {"audiences": [self.plane.server]}}
        return str(self.plane.api("POST", f"{self._accounts}/{ACCOUNT}/token", audiences)["status"]["token"])

    def signing_key(self) -> str:
        """Return the id of the key that signs tokens now."""
        where = (f"--namespace={self.namespace}", f"--audience={DIRECT_AUDIENCE}")
        head = self.server.kubectl("create", "token", ACCOUNT, *where).stdout.decode().partition(".")[0]
        return str(json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])

    async def _fetch_as_azure(self, url: str) -> bytes:
        assert url.startswith(self.public.url), "Entra ID does not reach the API server"
        async with self._session.get(url, raise_for_status=True) as response:
            return await response.read()


@pytest.fixture
async def own(plane: up.Plane, tmp_path: Path) -> AsyncIterator[OwnIssuer]:
    authority, public = Authority("web"), PublicIssuer()
    await public.start(ssl_context=await asyncio.to_thread(authority.server_context, LOOPBACK))
    connector = aiohttp.TCPConnector(ssl=authority.client_context())
    async with running(Bench(loopback=True)) as bench, aiohttp.ClientSession(connector=connector) as session:
        made = await asyncio.to_thread(OwnIssuer, plane, bench, public, session, tmp_path)
        yield made
        await asyncio.to_thread(plane.api, "DELETE", f"/api/v1/namespaces/{made.namespace}")
    await public.stop()


async def test_a_published_issuer_is_trusted_and_tokens_of_the_former_issuer_remain_valid(own: OwnIssuer) -> None:
    with own.server.running(*own.flags(own.former_key, former_issuer=True)):
        assert "AADSTS50166" in await own.refusal()
        await asyncio.to_thread(own.publish)
        own.public.requested.clear()
        assert claims(await own.fetch())["appid"] == own.managed.client_id
        assert own.public.requested == [CONFIGURATION, KEY_SET]
        assert json.loads(own.public.files[CONFIGURATION])["issuer"] == own.public.url

        wrong = await own.refusal(own.plane.server)
        assert "AADSTS700211" in wrong
        assert f"issuer {own.plane.server}" in wrong, "it names the issuer that a credential would need"
        token = own.token_for_the_api_server()
        assert await asyncio.to_thread(own.server.accepts, token)
    with own.server.running(*own.flags(own.former_key)):
        assert not await asyncio.to_thread(own.server.accepts, token)


async def test_a_key_is_rotated_without_a_refused_exchange_if_both_are_published_first(own: OwnIssuer) -> None:
    with own.server.running(*own.flags(own.former_key, own.next_key)):
        await asyncio.to_thread(own.publish)
        assert len(own.published_keys) == 2
        assert (await own.fetch()).token.access_token
        both = own.public.files[KEY_SET]
        before = await asyncio.to_thread(own.signing_key)
    with own.server.running(*own.flags(own.next_key, own.former_key)):
        assert (await own.fetch()).token.access_token, "no document was published again"
        assert await asyncio.to_thread(own.signing_key) != before

        own.bench.aad.issuers._keys.clear()
        former = [each for each in own.published_keys if each["kid"] == before]
        own.public.files[KEY_SET] = json.dumps({"keys": former}).encode()
        assert "AADSTS7000272" in await own.refusal()
        own.public.files[KEY_SET] = both
        assert (await own.fetch()).token.access_token
