"""The sandbox's API server, on which a test runs the type upgrade."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mic.app import COMPONENT
from mic.startup.type_upgrade import TypeUpgrade, UpgradeRecord
from podidentity.kube.backoff import Backoff
from podidentity.kube.client import Client
from podidentity.kube.events import EventRecorder
from podidentity.resources import GROUP
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.memory_api import CRDS, MemoryApi
from tests.support.podidentity.kube.scripted import ScriptedServer

NAME, KEY = "aad-pod-identity-config", "type-upgrade-status"
IDENTITIES = f"azureidentities.{GROUP}"
BINDINGS = f"azureidentitybindings.{GROUP}"
EXCEPTIONS = f"azurepodidentityexceptions.{GROUP}"
ASSIGNED = f"azureassignedidentities.{GROUP}"


def at_once() -> Backoff:
    return Backoff(lambda: 0.0)


async def upgrade(client: Client, namespace: str = "ns", recorder: EventRecorder | None = None, **options: Any) -> bool:
    """Run the upgrade as a new leader begins it. Return whether it is done."""
    record = UpgradeRecord(client, namespace, NAME, KEY)
    events = recorder or EventRecorder(client, "test", "here")
    return await TypeUpgrade(client, events, record, **{"in_flight": 1, "pauses": at_once, **options}).run()


async def upgrade_on(server: ScriptedServer, **options: Any) -> list[tuple[str, str]]:
    """Run the upgrade on a server with scripted responses. Return the method and path of each write."""
    await server.start()
    async with server.client(f"{COMPONENT}/test", **options) as client:
        await upgrade(client)
    await server.stop()
    return [(request.method, request.path) for request in server.requests if request.method != "GET"]


class Cluster:
    """The sandbox's API server, and one upgrade as a new leader begins it."""

    def __init__(self, api: MemoryApi, client: Client) -> None:
        self.api = api
        self.client = client
        self.recorder = EventRecorder(client, "test", "here")

    def create(self, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> None:
        self.api.store.create(kind, {"metadata": {"name": name, "namespace": "default", **metadata}, "spec": spec})

    def spec(self, kind: str, name: str = "demo") -> Any:
        return self.api.store.get(kind, name, "default")["spec"]

    def recorded(self) -> Any:
        config_map = self.api.store.find("configmaps", NAME, "default")
        return config_map and config_map.get("data")

    def count_requests(self, method: str, what: str) -> int:
        return sum(request.method == method and what in request.path for request in self.api.requests)

    async def start(self, **options: Any) -> bool:
        return await upgrade(self.client, "default", self.recorder, **{"in_flight": 4, **options})


@asynccontextmanager
async def serving(definitions: Path = CRDS) -> AsyncIterator[Cluster]:
    api = MemoryApi(definitions)
    async with api.client(f"{COMPONENT}/test") as client:
        yield Cluster(api, client)


def old_ones(cluster: Cluster) -> None:
    cluster.create(IDENTITIES, "demo", {"type": 0, "ResourceID": "r", "ClientID": "c"})
    cluster.create(BINDINGS, "demo", {"AzureIdentity": "demo", "Selector": "demo"})
    cluster.create(EXCEPTIONS, "demo", {"PodLabels": {"app": "x"}})
    embedded = {"metadata": {"name": "demo", "namespace": "default"}}
    cluster.create(
        ASSIGNED,
        "demo",
        {
            "AzureIdentityRef": {**embedded, "spec": {"ResourceID": "r"}},
            "AzureBindingRef": {**embedded, "spec": {"Selector": "demo"}},
            "Pod": "web",
        },
    )


def write_before_update(cluster: Cluster, kind: str, change: dict[str, Any], times: int) -> None:
    """Change the object as another client immediately before each of the next *times* PUTs of it."""
    left = iter(range(times))

    def intercept(request: Recorded) -> None:
        if (
            request.method == "PUT"
            and kind.partition(".")[0] in request.path
            and (number := next(left, None)) is not None
        ):
            name = request.path.rpartition("/")[2]
            annotation = {"metadata": {"annotations": {"changed": str(number)}}}
            cluster.api.store.patch(kind, name, {**change, **annotation}, "default")

    cluster.api.intercept = intercept
