"""The steps for clusters outside Azure (docs/federated-identities.md) with a real kube-apiserver and its flags.

Entra ID reaches the issuer's web server only, and never the API server.
"""

import asyncio
import json
import uuid
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nmi.error_refusals import refusal_of
from nmi.tokens.assertions import Assertions
from nmi.tokens.federated import FederatedSource
from nmi.tokens.source import FetchedToken, FetchRequest, Workload
from podidentity.azure.errors import Refused
from podidentity.azure.federation import DIRECT_AUDIENCE, Exchange
from podidentity.kube.client import Client
from podidentity.resources import PODS, AzureIdentity, AzureIdentitySpec, Meta
from podidentity_sandbox.certificates import LOOPBACK, Authority
from podidentity_sandbox.directory import FederatedCredential
from podidentity_sandbox.federation import CONFIGURATION
from podidentity_sandbox.issuing import KEY_SET
from podidentity_sandbox.serving import free_ports
from tests.direct_access import direct_access
from tests.nmi.tokens.public_issuer import PublicIssuer
from tests.nmi.tokens.second_api_server import SecondApiServer
from tests.nmi.tokens.sign_in_bench import RESOURCE, Bench, claims, running
from tests.testplane import up

pytestmark = [pytest.mark.plane, pytest.mark.timeout(400)]

ACCOUNT = "builder"


class OwnIssuer:
    """A cluster with its own issuer, a pod, and an identity that trusts the pod's service account."""

    def __init__(
        self, plane: up.Plane, bench: Bench, public: PublicIssuer, session: aiohttp.ClientSession, folder: Path
    ) -> None:
        self.plane = plane
        self.bench = bench
        self.public = public
        self.server = SecondApiServer(plane, free_ports(1)[0])
        self.namespace = f"issuer-{uuid.uuid4().hex[:8]}"
        self.former_key = Path(plane.directory) / "sa.key"
        self.next_key = _make_key(folder / "next.key")
        self.managed = bench.directory.add_identity("/subscriptions/s/own")
        subject = f"system:serviceaccount:{self.namespace}:{ACCOUNT}"
        bench.directory.federate(self.managed.client_id, FederatedCredential(public.url, subject, DIRECT_AUDIENCE))
        self._session = session
        bench.aad.issuers.fetch = self._fetch_as_azure
        self._workload = self._make_pod()

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
        self.public.files = {path: self.server.kubectl("get", "--raw", path) for path in (CONFIGURATION, KEY_SET)}

    @property
    def published_keys(self) -> list[dict[str, Any]]:
        return list(json.loads(self.public.files[KEY_SET])["keys"])

    async def fetch(self, api_server: str = "") -> FetchedToken:
        """Return a token of the pod's identity, whose assertion is from *api_server*, by default the second one."""
        access = direct_access(api_server or self.server.url, self.plane.ca, self.plane.token)
        async with Client(access, user_agent="test") as client:
            assertions = {Exchange.DIRECT: Assertions(client, DIRECT_AUDIENCE)}
            source = FederatedSource(self.bench.policy, assertions, self.bench.sign_ins, enabled=True)
            spec = AzureIdentitySpec(
                type=3,
                client_id=self.managed.client_id,
                tenant_id=self.bench.directory.tenant_id,
                ad_endpoint=f"{self.bench.aad.url}/",
            )
            identity = AzureIdentity(metadata=Meta(name="id", namespace=self.namespace), spec=spec)
            return await source.fetch(
                FetchRequest(identity=identity, resource=RESOURCE, timeout_seconds=20.0, workload=self._workload)
            )

    async def refusal(self, api_server: str = "") -> str:
        """Return the sentence and the detail of the refusal of a token."""
        with pytest.raises(Refused) as refused:
            await self.fetch(api_server)
        refusal = refusal_of(refused.value)
        return f"{refusal.sentence} {refusal.detail}"

    def token_for_the_api_server(self) -> str:
        """Return a token of the service account from the control plane's first server, with the former issuer."""
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{ACCOUNT}/token"
        audiences = {"spec": {"audiences": [self.plane.server]}}
        return str(self.plane.api("POST", path, audiences)["status"]["token"])

    def remove(self) -> None:
        self.plane.api("DELETE", f"/api/v1/namespaces/{self.namespace}")

    def _make_pod(self) -> Workload:
        self.plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        self.plane.api("POST", path, {"metadata": {"name": ACCOUNT}})
        spec: dict[str, Any] = {"serviceAccountName": ACCOUNT, "containers": [{"name": "c", "image": "i"}]}
        spec |= {"automountServiceAccountToken": False}
        pod = self.plane.api("POST", PODS.path(self.namespace), {"metadata": {"name": "web"}, "spec": spec})
        return Workload(self.namespace, "web", pod["metadata"]["uid"], ACCOUNT)

    async def _fetch_as_azure(self, url: str) -> bytes:
        assert url.startswith(self.public.url), "Entra ID does not reach the API server"
        async with self._session.get(url, raise_for_status=True) as response:
            return await response.read()


def _make_key(file: Path) -> Path:
    key = rsa.generate_private_key(65537, 2048)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return file


@pytest.fixture
async def own(plane: up.Plane, tmp_path: Path) -> AsyncIterator[OwnIssuer]:
    authority, public = Authority("web"), PublicIssuer()
    await public.start(ssl_context=await asyncio.to_thread(authority.server_context, LOOPBACK))
    connector = aiohttp.TCPConnector(ssl=authority.client_context())
    async with running(Bench(loopback=True)) as bench, aiohttp.ClientSession(connector=connector) as session:
        made = await asyncio.to_thread(OwnIssuer, plane, bench, public, session, tmp_path)
        yield made
        await asyncio.to_thread(made.remove)
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
        before = await _signing_key(own)
    with own.server.running(*own.flags(own.next_key, own.former_key)):
        assert (await own.fetch()).token.access_token, "no document was published again"
        assert await _signing_key(own) != before

        own.bench.aad.issuers._keys.clear()
        former = [each for each in own.published_keys if each["kid"] == before]
        own.public.files[KEY_SET] = json.dumps({"keys": former}).encode()
        assert "AADSTS7000272" in await own.refusal()
        own.public.files[KEY_SET] = both
        assert (await own.fetch()).token.access_token


async def _signing_key(own: OwnIssuer) -> str:
    """Return the id of the key that signs tokens now."""
    token = await asyncio.to_thread(
        own.server.kubectl, "create", "token", ACCOUNT, f"--namespace={own.namespace}", f"--audience={DIRECT_AUDIENCE}"
    )
    return str(jwt_header(token.decode())["kid"])


def jwt_header(token: str) -> dict[str, Any]:
    head = token.partition(".")[0]
    return dict(json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4))))
