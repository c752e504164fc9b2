"""Fixtures of tests with MIC: a world of reconcile passes, and the emulated cloud of the real programs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.mic.arm_client import ArmUnderTest, serving_arm
from tests.support.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.support.mic.world import MicWorld


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        yield made


@pytest.fixture
async def world() -> AsyncIterator[MicWorld]:
    async with MicWorld() as made:
        yield made


@pytest.fixture
async def azure() -> AsyncIterator[ArmUnderTest]:
    async with serving_arm() as made:
        yield made
