"""The scripted server, a client of it, and a handler that records its calls."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import cast

import pytest

import podidentity.http_client.session  # noqa: F401 - else the first test that uses it would wait for its import
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.informer import Informer
from podidentity.kube.sessions import OpenSession, aiohttp_session, small_session
from podidentity.resources import PODS, Pod
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import ScriptedServer
from tests.virtual_time import loop_factories

NewInformer = Callable[..., Informer[Pod]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the async tests of modules with IN_VIRTUAL_TIME in virtual time."""
    module = item.getparent(pytest.Module)
    assert module is not None
    return loop_factories(virtual=getattr(module.obj, "IN_VIRTUAL_TIME", False))


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture(params=[aiohttp_session, small_session], ids=["aiohttp", "small"])
def open_session(request: pytest.FixtureRequest) -> OpenSession:
    """Return each of the HTTP clients: MIC and podidctl use the first, NMI the second."""
    return cast("OpenSession", request.param)


@pytest.fixture
async def client(server: ScriptedServer, open_session: OpenSession) -> AsyncIterator[Client]:
    access = ClusterAccess(server.url)
    async with Client(access, user_agent="test/1", timeout_seconds=5, open_session=open_session) as opened:
        yield opened


@pytest.fixture
def recorder() -> Recorder[Pod]:
    return Recorder()


@pytest.fixture
async def informer(client: Client, recorder: Recorder[Pod]) -> AsyncIterator[NewInformer]:
    """Starts an informer of pods that never waits between attempts; it is cancelled at the end."""
    running: list[asyncio.Task[None]] = []

    def start(**options: object) -> Informer[Pod]:
        made = Informer(client, PODS, recorder, **{"random": lambda: 0.0, **options})  # type: ignore[arg-type]  # by name
        running.append(asyncio.create_task(made.run()))
        return made

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
