"""The emulator in memory, in virtual time."""

from collections.abc import AsyncIterator, Callable

import pytest

from mic.app import COMPONENT
from podidentity.kube.client import Client
from tests.support.electors import electors
from tests.support.memory_api import MemoryApi
from tests.support.virtual_time import now

__all__ = ["electors"]


@pytest.fixture
async def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
async def client(api: MemoryApi) -> AsyncIterator[Client]:
    async with api.client("contract") as opened:
        yield opened


@pytest.fixture
async def mics(api: MemoryApi) -> AsyncIterator[Client]:
    async with api.client(f"{COMPONENT}/contract") as opened:
        yield opened


@pytest.fixture
def namespace() -> str:
    return "default"


@pytest.fixture
def clock() -> Callable[[], float]:
    return now
