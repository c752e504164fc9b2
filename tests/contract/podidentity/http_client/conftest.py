"""A server that sends any bytes, and a session."""

from collections.abc import AsyncIterator

import pytest

from podidentity.http_client.session import HttpSession
from tests.support.both_loops import pytest_asyncio_loop_factories
from tests.support.raw_server import RawServer

__all__ = ["pytest_asyncio_loop_factories", "server", "session"]


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer() as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[HttpSession]:
    """One whose idle connections are not closed while a test waits for the end of one."""
    async with HttpSession(connections=4, headers={"User-Agent": "test/1"}, idle_seconds=600.0) as opened:
        yield opened
