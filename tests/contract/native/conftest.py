"""Fixtures of the compiled data plane."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.contract.native.serving import Peer, Serving, serving
from tests.support.both_loops import pytest_asyncio_loop_factories

__all__ = ["lane", "peer", "pytest_asyncio_loop_factories"]


@pytest_asyncio.fixture
async def lane() -> AsyncIterator[Serving]:
    """A lane with the usual limits, whose general lane answers each request with a 404."""
    async with serving() as started:
        yield started


@pytest_asyncio.fixture
async def peer(lane: Serving) -> Peer:
    """A connection of the known pod to *lane*."""
    return await lane.connect()
