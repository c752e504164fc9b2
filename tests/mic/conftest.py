"""Fixtures that most tests of MIC use: the emulated cloud of the real program, and a world of reconcile passes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.support.mic import MicWorld


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        yield made


@pytest.fixture
async def world() -> AsyncIterator[MicWorld]:
    async with MicWorld() as made:
        yield made
