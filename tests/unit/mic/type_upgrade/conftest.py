"""A cluster with the definitions of this project's chart."""

from collections.abc import AsyncIterator

import pytest

from tests.support.mic.type_upgrade.upgraded_cluster import Cluster, serving


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving() as made:
        yield made
