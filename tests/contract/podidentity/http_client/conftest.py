"""The client's tests run on asyncio's loop and on uvloop."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from podidentity.http_client.session import HttpSession
from tests.support.podidentity.http_client.raw_server import RawServer


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test on uvloop, which NMI uses, and on asyncio's loop, on which nothing may differ."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer() as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[HttpSession]:
    """One whose idle connections are not closed while a test waits for the end of one."""
    async with HttpSession(connections=4, headers={"User-Agent": "test/1"}, idle_seconds=600.0) as opened:
        yield opened
