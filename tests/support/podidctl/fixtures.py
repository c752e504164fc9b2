"""The emulators with which the real program runs: the sandbox's API server, Resource Manager and sign-in."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.mic.emulated_cloud import EmulatedCloud, emulated_cloud


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        yield made
