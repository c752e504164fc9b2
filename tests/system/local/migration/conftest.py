"""A cluster whose identity becomes federated, on the emulators."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.migration.federation_sandbox import Federation, federation


@pytest.fixture
def flags() -> tuple[str, ...]:
    """Further flags of NMI."""
    return ()


@pytest.fixture
async def cloud(tmp_path: Path, flags: tuple[str, ...]) -> AsyncIterator[Federation]:
    """A pod `web-1` with an identity of type 0, and an NMI with --federated-identities. No MIC runs."""
    async with federation(tmp_path) as made:
        made.cloud.node("n0")
        made.cloud.identity()
        made.account("web")
        made.pod("web-1")
        made.nmi("--federated-identities", *flags)
        yield made
