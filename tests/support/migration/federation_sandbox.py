"""Clusters whose identities become federated: as values for plans, and as emulators for the real program."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from nmi.settings import NmiSettings
from podidctl.facts.model import ServerState
from podidctl.facts.workloads import WorkloadObject
from podidctl.migration.federation.planning import plan_federation
from podidctl.migration.federation.planning_input import FederationState, PlanOptions
from podidctl.migration.federation.schema import FederationPlan, IdentityStep
from podidctl.migration.workloads import ServiceAccount
from podidentity.azure.clouds import PUBLIC
from podidentity.azure.federation import DIRECT_AUDIENCE as AUDIENCE
from podidentity.azure.federation import Exchange
from podidentity.kube.decoding import decode_object
from podidentity.resources import ASSIGNED_IDENTITIES, EXCEPTIONS, AzureAssignedIdentity, ScheduledPod
from podidentity_sandbox.directory import FederatedCredential
from podidentity_sandbox.kubeapi.kinds import ResourceType
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.migration.objects import read, situation

TENANT = "72f988bf-0000-0000-0000-2d7cd011db47"
ISSUER = "https://oidc.example.org/cluster/"
FEDERATING = NmiSettings(node_name="n", federated_identities=True)


def cluster(
    *workloads: WorkloadObject,
    objects: list[dict[str, Any]] | None = None,
    pods: list[ScheduledPod] | None = None,
    accounts: list[ServiceAccount] | None = None,
    force_namespaced: bool = False,
    options: PlanOptions = PlanOptions(PUBLIC),  # noqa: B008 - immutable
    **more: Any,
) -> FederationState:
    """A cluster with these objects and without obstacles."""
    made = situation(*workloads, objects=objects, pods=pods, accounts=accounts, force_namespaced=force_namespaced)
    server = ServerState("v1.30.1")
    usual: dict[str, Any] = {"server": server, "issuer": ISSUER, "nmis": (FEDERATING,), "webhook": True}
    return FederationState(made, options, exceptions=read(EXCEPTIONS, objects), **{**usual, **more})


def planned(
    *workloads: WorkloadObject,
    tenant: str = TENANT,
    audience: str = "",
    exchange: Exchange | None = None,
    name_suffix: str = "",
    ignore_uses: bool = False,
    **more: Any,
) -> FederationPlan:
    options = PlanOptions(PUBLIC, tenant, "", audience, exchange, name_suffix, ignore_uses)
    return plan_federation(cluster(*workloads, options=options, **more))


def only(made: FederationPlan) -> IdentityStep:
    (step,) = made.steps
    return step


def blocking(made: FederationPlan) -> list[str]:
    """Obstacles of the only step; each states the next action."""
    remarks = [remark for remark in (*made.remarks, *only(made).remarks) if remark.blocks]
    assert all(remark.do for remark in remarks)
    return [remark.why for remark in remarks]


def notes(made: FederationPlan) -> list[str]:
    return [remark.why for remark in (*made.remarks, *only(made).remarks) if not remark.blocks]


def assigned(pod: str, type_: int, status: str = "Assigned", **meta: Any) -> AzureAssignedIdentity:
    """The AzureAssignedIdentity of a pod of namespace shop, for identity demo."""
    reference = {"metadata": {"name": "demo", "namespace": "shop"}, "spec": {"type": type_}}
    document = {
        "metadata": {"name": pod, "namespace": "shop", **meta},
        "spec": {"azureIdentityRef": reference, "pod": pod, "podNamespace": "shop"},
        "status": {"status": status},
    }
    return decode_object(ASSIGNED_IDENTITIES, msgspec.json.encode(document))


class Federation:
    """A sandbox whose AAD trusts the service accounts that a test names, and the program under test."""

    def __init__(self, cloud: EmulatedCloud) -> None:
        self.cloud = cloud
        self.store = cloud.api.store
        cloud.api._registry.add(
            ResourceType("Deployment", "deployments", "apps", subresources=("status",), generation=True)
        )

    def trust(self, account: str = "web", name: str = "demo", namespace: str = "default") -> None:
        subject = f"system:serviceaccount:{namespace}:{account}"
        self.cloud.directory.federate(f"client-{name}", FederatedCredential(self.cloud.api.url, subject, AUDIENCE))

    def account(self, name: str, namespace: str = "default") -> None:
        self.store.create("serviceaccounts", {"metadata": {"name": name, "namespace": namespace}})

    def pod(self, name: str, account: str = "web", label: str = "demo", namespace: str = "default") -> None:
        self.cloud.pod(name, "n0", label=label, namespace=namespace, serviceAccountName=account)

    def nmi(self, *flags: str) -> None:
        """An NMI as an operator sees it, on one node."""
        if self.store.find("serviceaccounts", "nmi", "kube-system") is None:
            self.account("nmi", "kube-system")
        meta = {"name": "nmi-1", "namespace": "kube-system", "labels": {"app.kubernetes.io/component": "nmi"}}
        container = {"name": "nmi", "image": "nmi", "args": list(flags)}
        spec = {"nodeName": "n0", "serviceAccountName": "nmi", "containers": [container]}
        self.store.create("pods", {"metadata": meta, "spec": spec, "status": {"phase": "Running"}})

    def workload(self, name: str = "web", **spec: Any) -> None:
        labels = {"app": name, "aadpodidbinding": "demo"}
        template = {
            "metadata": {"labels": labels},
            "spec": {"serviceAccountName": "web", "containers": [{"name": "c", "image": "i"}]},
        }
        body = {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": template, **spec}
        self.store.create("deployments.apps", {"metadata": {"name": name, "namespace": "default"}, "spec": body})

    def identity(self, name: str = "demo") -> dict[str, Any]:
        document: dict[str, Any] = self.store.get("azureidentities.aadpodidentity.k8s.io", name, "default")
        return document

    async def migrate(self, *arguments: str, **options: Any) -> CommandResult:
        folder = self.cloud.folder
        return await run(folder, "podidctl", "migrate", *arguments, cloudconfig=False, HOME=str(folder), **options)

    async def interrupted(self, method: str, path: str, *arguments: str) -> int:
        """Run the command, send Ctrl-C at the API server's first such request, and return the exit."""

        def interrupt_at(process: asyncio.subprocess.Process) -> None:
            def interrupt(request: Recorded) -> None:
                if process.returncode is None and request.method == method and path in request.path:
                    process.send_signal(signal.SIGINT)

            self.cloud.api.intercept = interrupt

        ended = await self.migrate(*arguments, started=interrupt_at)
        self.cloud.api.intercept = None
        return ended.code


@asynccontextmanager
async def federation(folder: Path) -> AsyncIterator[Federation]:
    async with emulated_cloud(folder) as cloud:
        authority = cloud.api.authority
        trust = aiohttp.TCPConnector(ssl=await asyncio.to_thread(authority.client_context))
        async with aiohttp.ClientSession(
            connector=trust, headers={"Authorization": f"Bearer {cloud.api.token}"}
        ) as session:

            async def fetch(url: str) -> bytes:
                async with session.get(url, raise_for_status=True) as response:
                    return await response.read()

            cloud.aad.issuers.fetch = fetch
            yield Federation(cloud)
