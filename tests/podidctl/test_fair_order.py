"""Lists that are cut show objects of every namespace before further ones of one namespace."""

import asyncio
from functools import partial

import pytest

from podidctl.diagnosis.batches import BATCH, in_batches
from podidctl.fair_order import by_turns, namespace_of
from podidctl.printing import listed


def test_groups_take_turns() -> None:
    assert by_turns(["a/1", "a/2", "a/3", "b/1", "c/1", "c/2"], namespace_of) == [
        *("a/1", "b/1", "c/1"),
        *("a/2", "c/2", "a/3"),
    ]
    assert by_turns([None, None], id) == [None, None]


def test_names_of_one_namespace_do_not_hide_those_of_others() -> None:
    assert listed(["shop/web", *(f"aaa/{number}" for number in range(9))]) == (
        "aaa/0, aaa/1, aaa/2, aaa/3, shop/web and 5 more"
    )
    assert listed(f"node-{number}" for number in range(7)) == "node-0, node-1, node-2, node-3, node-4 and 2 more"


async def test_requests_are_concurrent_in_batches_and_keep_their_order() -> None:
    running = most = 0

    async def request(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return number

    numbers = range(2 * BATCH + 3)
    assert await in_batches(partial(request, each) for each in numbers) == list(numbers)
    assert most == BATCH


async def test_a_failed_request_is_raised_after_its_batch() -> None:
    ended = []

    async def fail() -> int:
        raise ValueError("refused")

    async def end() -> int:
        await asyncio.sleep(0.001)
        ended.append(1)
        return 1

    with pytest.raises(ValueError, match="refused"):
        await in_batches([fail, end, *([end] * BATCH)])
    assert len(ended) == BATCH - 1, "the next batch is not started"
