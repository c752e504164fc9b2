"""The scripted server, a client of it, and an informer whose handler records its calls."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

import podidentity.http_client.session  # noqa: F401 - else the first test that uses it would wait for its import
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.informer import Informer
from podidentity.kube.object_store import Handler
from podidentity.kube.sessions import OpenSession, aiohttp_session, small_session
from podidentity.resources import PODS, Pod
from tests import selection
from tests.support.podidentity.kube.recording import Recorder
from tests.support.podidentity.kube.scripted import Reply, ScriptedServer, Watch, page


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start(loopback=not selection.is_virtual(request.node))
    yield scripted
    await scripted.stop()


@pytest.fixture(params=["aiohttp", "small"])
def open_session(request: pytest.FixtureRequest, server: ScriptedServer) -> OpenSession:
    """Return each of the HTTP clients: MIC and podidctl use the first, NMI the second."""
    if selection.is_virtual(request.node):
        return server.network.open_aiohttp_session if request.param == "aiohttp" else server.network.open_session
    return aiohttp_session if request.param == "aiohttp" else small_session


@pytest.fixture
async def client(server: ScriptedServer, open_session: OpenSession) -> AsyncIterator[Client]:
    access = ClusterAccess(server.url)
    async with Client(access, user_agent="test/1", timeout_seconds=5, open_session=open_session) as opened:
        yield opened


@pytest.fixture
def recorder() -> Recorder[Pod]:
    return Recorder()


class Bench:
    """Informers of pods on the scripted server that never wait between attempts; they end with the test."""

    def __init__(self, server: ScriptedServer, client: Client) -> None:
        self.server, self.client = server, client
        self.recorder: Recorder[Pod] = Recorder()
        self.received = self.recorder.received
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, *lists: Reply, handler: Handler[Pod] | None = None, **options: Any) -> Informer[Pod]:
        """Start an informer that gets *lists*, with the recorder unless there is a *handler*."""
        self.server.lists += lists
        usual = {"random": lambda: 0.0}
        self.informer = Informer(self.client, PODS, handler or self.recorder, **{**usual, **options})
        self.tasks.append(asyncio.create_task(self.informer.run()))
        return self.informer

    async def watching(self, *pods: Mapping[str, Any], **options: Any) -> Watch:
        """Start an informer that lists *pods* at the resource version 7. Return its watch."""
        self.start(page(*pods, version="7"), **options)
        return await self.server.watch()

    async def resumed(self) -> str:
        """Return the resource version of the next watch."""
        return (await self.server.watch()).request.params["resourceVersion"]


@pytest.fixture
async def bench(server: ScriptedServer, client: Client) -> AsyncIterator[Bench]:
    made = Bench(server, client)
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
