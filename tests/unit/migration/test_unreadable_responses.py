"""A response of the API server that is no valid object ends a command with an error, or counts as unknown."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from podidctl.commands.connection import ClusterSettings
from podidctl.migration import command
from podidctl.migration.federation import runs
from podidctl.migration.federation.json_patches import FORMER_ANNOTATION
from podidctl.migration.federation.planning_input import PlanOptions
from podidctl.migration.federation.runs import MigrationRun
from podidentity.azure.clouds import PUBLIC
from podidentity.exits import StartError
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError
from podidentity_sandbox.kubeapi.kinds import ResourceType
from tests.support.memory_api import MemoryApi
from tests.support.podidctl.memory_cluster import MemoryCluster

WRONG: list[Any] = [None, "text", 7, []]
PARTS = ("metadata", "spec", "status", "data")
METADATA = ("name", "namespace", "annotations", "labels", "ownerReferences", "generation")
VALID: dict[str, Any] = {"metadata": {"name": "x", "uid": "u", "resourceVersion": "1"}, "spec": {}}
SETTINGS = ClusterSettings(namespace="default", request_seconds=10)


def run() -> MigrationRun:
    return MigrationRun(settings=SETTINGS, options=PlanOptions(PUBLIC), names=(), namespace="", yes=True)


COMMANDS: dict[str, Callable[[], Awaitable[object]]] = {
    "from-reference": lambda: command._of_cluster(SETTINGS),
    "plan": lambda: run().plan(workload_identity=True),
    "rollback": lambda: run().rollback_identities(),
    "rollback --workload-identity": lambda: run().rollback_applications(),
}


def invalid_objects() -> Iterator[Any]:
    """Yield objects in which one value has another type."""
    yield from WRONG
    for wrong in WRONG:
        yield from ({**VALID, part: wrong} for part in PARTS)
        yield from ({**VALID, "metadata": {**VALID["metadata"], name: wrong}} for name in METADATA)


def invalid_bodies(path: str) -> list[Any]:
    if not path.endswith("s"):  # no list: the names of one object and of a description do not end like a plural
        return [{}, *invalid_objects()]
    meta = {"resourceVersion": "1"}
    return [*WRONG, {}, {"metadata": meta, "items": "text"}, {"metadata": meta, "items": [*invalid_objects()]}]


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemoryCluster]:
    """A cluster with an NMI, an identity of type 0, a switched identity, and an application."""
    api = MemoryApi()
    for kind, plural in (("Deployment", "deployments"), ("DaemonSet", "daemonsets")):
        api._registry.add(ResourceType(kind, plural, "apps"))
    async with api.client("podidctl/test") as client:

        @asynccontextmanager
        async def connect(_: ClusterSettings) -> AsyncIterator[Client]:
            try:
                yield client
            except ApiError as error:
                raise StartError(str(error)) from error

        monkeypatch.setattr(command, "connect", connect)
        monkeypatch.setattr(runs, "connect", connect)
        made = MemoryCluster(api, client)
        made.node("n0")
        made.daemon("nmi", hostNetwork=True, args=["--federated-identities"])
        made.identity("demo")
        made.pod("web-1", "n0")
        made.identity("switched", type=3)
        note = {FORMER_ANNOTATION: json.dumps({"spec": {"type": 0}, "tenantID": "t"})}
        switched = {"metadata": {"annotations": note}}
        api.store.patch("azureidentities.aadpodidentity.k8s.io", "switched", switched, "default")
        template = {"metadata": {"labels": {"aadpodidbinding": "switched"}}}
        meta = {"name": "web", "namespace": "default"}
        api.store.create("deployments.apps", {"metadata": meta, "spec": {"template": template}})
        yield made


async def test_a_slow_version_does_not_end_the_plan(cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    route = cluster.api._route

    async def respond(request: Any, user: Any) -> web.StreamResponse:
        if request.path == "/version":
            await asyncio.sleep(3600)
        return await route(request, user)

    monkeypatch.setattr(cluster.api, "_route", respond)
    assert (await run().plan(workload_identity=False)).steps


async def test_a_plan_lists_each_kind_of_workload_once(cluster: MemoryCluster) -> None:
    await run().plan(workload_identity=True)
    lists = [request.path.partition("?")[0] for request in cluster.api.requests if "/apis/apps/" in request.path]
    assert len(lists) == len(set(lists)) == 4


@pytest.mark.parametrize("name", COMMANDS)
async def test_no_response_causes_an_unexpected_error(
    name: str, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = cluster.api._route
    replaced: dict[str, Any] = {}

    async def respond(request: Any, user: Any) -> web.StreamResponse:
        if request.method == "GET" and request.path in replaced:
            return web.json_response(replaced[request.path])
        return await route(request, user)

    monkeypatch.setattr(cluster.api, "_route", respond)
    await COMMANDS[name]()
    requests = {request.path.partition("?")[0] for request in cluster.api.requests if request.method == "GET"}
    for path in requests:
        for body in invalid_bodies(path):
            replaced = {path: body}
            try:
                await COMMANDS[name]()
            except StartError:
                pass
            except Exception as error:  # noqa: BLE001 - the message names the response
                pytest.fail(f"{path} with {body}: {error!r}")
