"""Fixtures that run each test twice: with the sandbox's API server, and with the real one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.resources import Kind, Resource
from podidentity_sandbox.cluster import CRDS, read_documents
from podidentity_sandbox.kubeapi import KubeApi
from tests.conftest import apply_definitions
from tests.contract.kube.servers import EmulatedServer, RealServer, Server, address, fresh_namespace
from tests.support.fault_proxy import FaultProxy
from tests.support.testplane import up
from tests.support.waiting import until

ACCOUNTS: Kind[Resource] = Kind("ServiceAccount", "serviceaccounts", Resource)
NAMESPACES: Kind[Resource] = Kind("Namespace", "namespaces", Resource, namespaced=False)
BOTH = ["emulator", pytest.param("real", marks=pytest.mark.plane)]
SHORT_MEMORY: dict[str, Any] = {"controllers": "none", "apiserver_flags": ["--watch-cache=false"]}


@pytest.fixture(scope="session")
def short_memory_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A real server that may be killed. It has no watch cache, so it has no revision that etcd has compacted."""
    directory = tmp_path_factory.mktemp("plane")
    server = RealServer(up.Plane(directory=directory, **SHORT_MEMORY), **SHORT_MEMORY)
    apply_definitions(server.plane)
    yield server
    if server.plane.process.poll() is None:
        server.plane.stop()


@pytest.fixture
async def emulator() -> AsyncIterator[EmulatedServer]:
    api = KubeApi(await asyncio.to_thread(read_documents, CRDS))
    await api.start()
    yield EmulatedServer(api)
    await api.stop()


@pytest.fixture(params=BOTH)
def server(request: pytest.FixtureRequest) -> Server:
    """A server shared with other tests: leave it running."""
    if request.param == "emulator":
        emulated: EmulatedServer = request.getfixturevalue("emulator")
        return emulated
    return RealServer(request.getfixturevalue("plane"))


@pytest.fixture(params=BOTH)
def frail_server(request: pytest.FixtureRequest) -> Server:
    """A server that may be killed and compacted; a test that kills it starts it again."""
    if request.param == "emulator":
        emulated: EmulatedServer = request.getfixturevalue("emulator")
        return emulated
    real: RealServer = request.getfixturevalue("short_memory_server")
    return real


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(await server.access(), user_agent="contract") as opened:
        yield opened


@pytest.fixture
async def namespace(client: Client) -> str:
    return await new_namespace(client)


@pytest.fixture
async def account(client: Client, namespace: str) -> None:
    """Pods need their namespace's service account, which a controller makes."""
    await until(lambda: client.list(ACCOUNTS, namespace))


async def new_namespace(client: Client) -> str:
    name = fresh_namespace()
    await client.create(NAMESPACES, "", {"metadata": {"name": name}})
    return name


async def through(proxy: FaultProxy, server: Server) -> ClusterAccess:
    """The server's access by way of *proxy*, which is started here."""
    direct = await server.access()
    await proxy.start()
    host = address(server)[0]
    return ClusterAccess(f"https://{host}:{proxy.port}", direct.ssl, direct.authorization, direct.namespace)
