"""Fixtures that most tests of MIC use: the emulated cloud of the real program, and a bench of reconcile passes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.mic.reconcile_bench import ReconcileBench, reconcile_bench


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        yield made


@pytest.fixture
async def stage() -> AsyncIterator[ReconcileBench]:
    async with reconcile_bench() as made:
        yield made
