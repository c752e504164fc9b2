"""Fixtures: the parts of a token server without sockets, or a server on loopback and a client of it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.nmi.server.fakes import ServerUnderTest
from tests.support.nmi.server.running import Client, Running, serving


@pytest.fixture
def server() -> ServerUnderTest:
    """The parts of a server with the default policy."""
    return ServerUnderTest()


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Running]:
    """A server with the default policy."""
    async with serving() as started:
        yield started


@pytest_asyncio.fixture
async def client(running: Running) -> AsyncIterator[Client]:
    """A connection to *running* from the address of its pod."""
    async with running.client() as connected:
        yield connected
