"""Fixtures of the compiled data plane. Each asynchronous test runs on asyncio's loop and on uvloop, equally."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest_asyncio
import uvloop

from tests.contract.native.serving import Peer, Serving, serving


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test on uvloop, which the programs use, and on asyncio's loop, with the same result."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def lane() -> AsyncIterator[Serving]:
    """A lane with the usual limits, whose general lane answers each request with a 404."""
    async with serving() as started:
        yield started


@pytest_asyncio.fixture
async def peer(lane: Serving) -> Peer:
    """A connection of the known pod to *lane*."""
    return await lane.connect()
