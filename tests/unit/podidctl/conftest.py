"""An API server in memory, which podidctl's readers read."""

from collections.abc import AsyncIterator

import pytest

from tests.support.memory_api import MemoryApi
from tests.support.podidctl.memory_cluster import MemoryCluster


@pytest.fixture
async def cluster() -> AsyncIterator[MemoryCluster]:
    api = MemoryApi()
    async with api.client("podidctl/test") as client:
        yield MemoryCluster(api, client)
