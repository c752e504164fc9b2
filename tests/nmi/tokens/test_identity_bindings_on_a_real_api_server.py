"""200 service accounts of 50 namespaces use one identity with one federated credential, on the real API server.

The API server makes and binds the assertions, and decides for the token proxy by its RBAC.
"""

import asyncio
import math
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nmi.tokens.assertions import Assertions
from nmi.tokens.exchanges import Exchanges
from nmi.tokens.federated import FederatedSource
from nmi.tokens.proxy_refusals import MissingStep, NotBoundError
from nmi.tokens.source import FetchedToken, FetchRequest, Workload
from nmi.tokens.token_proxy import ProxySettings
from nmi.tokens.token_proxy import TokenProxy as ProxyAddress
from podidentity.azure.federation import BINDING_AUDIENCE, BINDING_GROUP, BINDING_VERB, Exchange
from podidentity.kube.client import Client
from podidentity.resources import PODS, AzureIdentity, AzureIdentitySpec, Meta
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.token_proxy import SERVER_NAME, TokenProxy
from tests.direct_access import direct_access
from tests.nmi.tokens.sign_in_bench import RESOURCE, Bench, claims, running
from tests.testplane import up

pytestmark = [pytest.mark.plane, pytest.mark.measures, pytest.mark.timeout(240)]

NAMESPACES = tuple(f"binding-{number}" for number in range(50))
ACCOUNTS = ("web", "api", "worker", "job")
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PROXY_SECONDS = 0.05
FIRST_TOKEN_SECONDS = 0.15
NAME = "use-bound"


class Installation:
    """NMI's source on the real API server, and the token proxy."""

    def __init__(self, plane: up.Plane, bench: Bench, client: Client, folder: Path) -> None:
        self.plane = plane
        self.bench = bench
        self.proxy = TokenProxy(bench.directory, bench.aad)
        self.proxy.client = client
        self.managed = bench.directory.add_identity("/subscriptions/s/bound", client_id=str(uuid.uuid4()))
        authority = Authority("cluster")
        self._authority = authority
        self._client = client

    async def start(self) -> None:
        await self.proxy.serve(self._authority)
        self.proxy.bind(self.managed.client_id)
        address = ProxyAddress(ProxySettings(self.proxy.proxy_url, SERVER_NAME, ca_data=self._authority.pem))
        self.source = FederatedSource(
            self.bench.policy,
            {Exchange.IDENTITY_BINDINGS: Assertions(self._client, BINDING_AUDIENCE)},
            self.bench.sign_ins,
            enabled=True,
            exchanges=Exchanges(Exchange.IDENTITY_BINDINGS, proxy=address),
        )

    def make_objects(self) -> list[Workload]:
        """Create the namespaces, service accounts and pods, and let all of them use the identity."""
        made = []
        for namespace in NAMESPACES:
            self.plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            for account in ACCOUNTS:
                path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
                self.plane.api("POST", path, {"metadata": {"name": account}})
                spec: dict[str, Any] = {"serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]}
                spec |= {"automountServiceAccountToken": False}
                pod = self.plane.api("POST", PODS.path(namespace), {"metadata": {"name": account}, "spec": spec})
                made.append(Workload(namespace, account, pod["metadata"]["uid"], account))
        rule = {"verbs": [BINDING_VERB], "apiGroups": [BINDING_GROUP], "resources": [self.managed.client_id]}
        self.plane.api("POST", f"{RBAC}/clusterroles", {"metadata": {"name": NAME}, "rules": [rule]})
        self.permit(NAMESPACES)
        return made

    def permit(self, namespaces: tuple[str, ...]) -> None:
        group = {"kind": "Group", "apiGroup": "rbac.authorization.k8s.io"}
        document = {
            "metadata": {"name": NAME},
            "subjects": [group | {"name": f"system:serviceaccounts:{namespace}"} for namespace in namespaces],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
        }
        self.plane.api("POST", f"{RBAC}/clusterrolebindings", document)

    def forbid(self) -> None:
        self.plane.api("DELETE", f"{RBAC}/clusterrolebindings/{NAME}")

    def remove(self) -> None:
        for path in (f"{RBAC}/clusterrolebindings/{NAME}", f"{RBAC}/clusterroles/{NAME}"):
            self.plane.api("DELETE", path)
        for namespace in NAMESPACES:
            self.plane.api("DELETE", f"/api/v1/namespaces/{namespace}")

    async def fetch(self, workload: Workload) -> FetchedToken:
        spec = AzureIdentitySpec(type=3, client_id=self.managed.client_id, tenant_id=self.bench.directory.tenant_id)
        identity = AzureIdentity(metadata=Meta(name="id", namespace=workload.namespace), spec=spec)
        return await self.source.fetch(
            FetchRequest(identity=identity, resource=RESOURCE, timeout_seconds=20.0, workload=workload)
        )


@pytest.fixture
async def installation(plane: up.Plane, tmp_path: Path) -> AsyncIterator[Installation]:
    access = direct_access(plane.server, plane.ca, plane.token)
    async with running(Bench(loopback=True)) as bench, Client(access, user_agent="test") as client:
        made = Installation(plane, bench, client, tmp_path)
        await made.start()
        try:
            yield made
        finally:
            await bench.session.close()
            await made.proxy.stop()
            await asyncio.to_thread(made.remove)


async def test_two_hundred_service_accounts_share_one_credential_until_the_permission_is_removed(
    installation: Installation,
) -> None:
    workloads = await asyncio.to_thread(installation.make_objects)
    assert len({(each.namespace, each.service_account) for each in workloads}) == 200
    await until_permitted(installation, workloads[0])  # the node is warm: azure-identity is loaded
    installation.proxy.faults.add(ResponseFault(delay_seconds=PROXY_SECONDS, times=math.inf))
    seconds = []
    for workload in workloads[1:]:
        began = time.perf_counter()
        token = await installation.fetch(workload)
        seconds.append(time.perf_counter() - began)
        assert claims(token)["appid"] == installation.managed.client_id
    assert statistics.median(seconds) < FIRST_TOKEN_SECONDS, f"maximum {max(seconds):.3f} s"
    assert len(installation.bench.directory.federated(installation.managed.client_id, math.inf)) == 1
    assert {call.pod for call in installation.proxy.calls} == {f"{each.namespace}/{each.pod}" for each in workloads}

    installation.proxy.faults.clear()
    await asyncio.to_thread(installation.forbid)
    await until_refused(installation, workloads[0])
    for workload in workloads[::20]:
        with pytest.raises(NotBoundError) as refused:
            await installation.fetch(workload)
        assert refused.value.step is MissingStep.PERMISSION
    await asyncio.to_thread(installation.permit, NAMESPACES[:1])
    await until_permitted(installation, workloads[0])


async def until_permitted(installation: Installation, workload: Workload) -> None:
    """The API server applies a change of its RBAC after some milliseconds."""
    async with asyncio.timeout(30):
        while True:
            try:
                await installation.fetch(workload)
            except NotBoundError:
                continue
            return


async def until_refused(installation: Installation, workload: Workload) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await installation.fetch(workload)
            except NotBoundError:
                return
