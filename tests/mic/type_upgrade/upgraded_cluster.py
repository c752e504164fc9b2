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
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.memory_api import CRDS, MemoryApi

NAME, KEY = "aad-pod-identity-config", "type-upgrade-status"
IDENTITIES = f"azureidentities.{GROUP}"
BINDINGS = f"azureidentitybindings.{GROUP}"
EXCEPTIONS = f"azurepodidentityexceptions.{GROUP}"
ASSIGNED = f"azureassignedidentities.{GROUP}"


def at_once() -> Backoff:
    return Backoff(lambda: 0.0)


def an_hour() -> Backoff:
    return Backoff(lambda: 1.0, first_seconds=3600.0, most_seconds=3600.0)


class Cluster:
    """The sandbox's API server, and one upgrade as a new leader begins it."""

    def __init__(self, api: KubeApi, client: Client) -> None:
        self.api = api
        self.client = client
        self.recorder = EventRecorder(client, "test", "here")

    def create(self, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> None:
        self.api.store.create(kind, {"metadata": {"name": name, "namespace": "default", **metadata}, "spec": spec})

    def spec(self, kind: str, name: str = "demo") -> Any:
        return self.api.store.get(kind, name, "default")["spec"]

    def recorded(self) -> Any:
        found = self.api.store.find("configmaps", NAME, "default")
        return found and found.get("data")

    def asked(self, method: str, what: str) -> int:
        return sum(each.method == method and what in each.path for each in self.api.requests)

    async def start(self, **options: Any) -> bool:
        """Return whether the upgrade is done."""
        record = UpgradeRecord(self.client, "default", NAME, KEY)
        return await TypeUpgrade(
            self.client, self.recorder, record, **{"in_flight": 4, "pauses": at_once, **options}
        ).run()


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


def refusing(cluster: Cluster, code: int, reason: str, *, times: int, method: str = "", what: str = "") -> None:
    """Answer the next *times* matching requests with an error."""
    left = iter(range(times))

    def intercept(request: Recorded) -> StatusError | None:
        if method in {"", request.method} and what in request.path and next(left, None) is not None:
            return StatusError(code, reason, "refused by the test")
        return None

    cluster.api.intercept = intercept
