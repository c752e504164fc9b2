"""Clusters with a cluster cache, as `running_cluster` makes them."""

from collections.abc import AsyncIterator

import pytest

from tests.support.nmi.identity.cluster import Cluster, running_cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """One whose cache has its watches."""
    async with running_cluster() as made:
        yield made


@pytest.fixture
async def unwatched() -> AsyncIterator[Cluster]:
    """One whose cache receives only what the test delivers."""
    async with running_cluster(watching=False) as made:
        yield made


@pytest.fixture
async def managed() -> AsyncIterator[Cluster]:
    """One without MIC, whose cache receives only what the test delivers."""
    async with running_cluster(managed=True, watching=False) as made:
        yield made
