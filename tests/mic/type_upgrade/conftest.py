"""A cluster with the definitions of this project's chart."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import ROOT
from tests.mic.type_upgrade.upgraded_cluster import Cluster, serving


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving(ROOT / "deploy" / "crds") as made:
        yield made
