"""Fixtures that most tests of MIC use: the emulated cloud of the real program, and a world of reconcile passes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from tests.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.support.mic import MicWorld
from tests.virtual_time import loop_factories


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run async tests in virtual time if their file uses MicWorld, except those on emulators over sockets."""
    module = item.getparent(pytest.Module)
    assert module is not None
    uses_world = any(value is MicWorld for value in vars(module.obj).values())
    return loop_factories(virtual=uses_world and "cloud" not in getattr(item, "fixturenames", ()))


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        yield made


@pytest.fixture
async def world() -> AsyncIterator[MicWorld]:
    async with MicWorld() as made:
        yield made
