"""The wait of a stopping NMI for a successor that has started and is not registered yet."""

import asyncio
from dataclasses import dataclass
from typing import cast

import pytest

from nmi.app import registration
from nmi.handover.predecessor import Predecessor


@dataclass
class Handover:
    registered: bool = False
    retired: bool = False


async def waited(handover: Handover, seconds: float) -> float:
    """Return how long the wait took."""
    begin = asyncio.get_running_loop().time()
    await registration(cast("Predecessor", handover), seconds)
    return asyncio.get_running_loop().time() - begin


@pytest.mark.parametrize("handover", [Handover(registered=True), Handover(retired=True)])
async def test_with_a_successor_there_is_no_wait(handover: Handover) -> None:
    assert await waited(handover, 60) < 5


async def test_a_successor_that_registers_ends_the_wait() -> None:
    handover = Handover()
    asyncio.get_running_loop().call_later(0.1, setattr, handover, "registered", True)
    assert 0.1 <= await waited(handover, 60) < 10


async def test_without_a_successor_the_wait_is_limited() -> None:
    assert 0.2 <= await waited(Handover(), 0.2) < 10
