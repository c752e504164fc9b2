"""The scripted server, a client of it, and a handler that records its calls."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

import podidentity.http_client.session  # noqa: F401 - else the first test that uses it would wait for its import
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.informer import Informer
from podidentity.kube.object_store import Handler
from podidentity.kube.sessions import OpenSession, aiohttp_session, small_session
from podidentity.resources import PODS, Pod
from tests import selection
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import ScriptedServer
from tests.virtual_time import now

NewInformer = Callable[..., Informer[Pod]]


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
    async with Client(access, user_agent="test/1", timeout_seconds=5, open_session=open_session, clock=now) as opened:
        yield opened


@pytest.fixture
def recorder() -> Recorder[Pod]:
    return Recorder()


@pytest.fixture
async def informer(client: Client, recorder: Recorder[Pod]) -> AsyncIterator[NewInformer]:
    """Starts an informer of pods that never waits between attempts, by default for *recorder*.

    It is cancelled at the end.
    """
    running: list[asyncio.Task[None]] = []

    def start(handler: Handler[Pod] = recorder, **options: object) -> Informer[Pod]:
        made = Informer(client, PODS, handler, **{"random": lambda: 0.0, "clock": now, **options})  # type: ignore[arg-type]  # by name
        running.append(asyncio.create_task(made.run()))
        return made

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
