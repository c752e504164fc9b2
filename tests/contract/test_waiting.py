"""Waits return the value of their condition, or fail with what they waited for and the last value."""

import asyncio
import itertools
import time

import pytest

from tests.support import waiting
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting import until, until_sync


async def test_a_wait_returns_the_first_value_that_holds() -> None:
    values = iter([0, 1, 2])

    async def value() -> int:
        return next(values)

    assert await until(lambda: next(values)) == 1
    assert await until(value, holds=lambda number: number == 2) == 2
    values = iter([0, 1, 2])
    assert until_sync(lambda: next(values), holds=lambda number: number == 2) == 2


@in_virtual_time
async def test_a_wait_that_fails_states_what_it_waited_for_and_the_last_value() -> None:
    calls = itertools.count()

    async def pods() -> list[str]:
        """Return no pod once, then wait for longer than the limit."""
        await asyncio.sleep(100.0 * next(calls))
        return []

    with pytest.raises(AssertionError, match=r"not within 60 s: a pod; last: \[\]"):
        await until(pods, "a pod")


@in_virtual_time
async def test_an_error_is_waited_for_only_where_a_test_expects_it() -> None:
    with pytest.raises(AssertionError, match=r"a log; last: ValueError\('odd'\)"):
        await until(_fail, lambda: "a log", ignoring=ValueError)
    with pytest.raises(ValueError, match="odd"):
        await until(_fail, "a pod")


def test_a_blocking_wait_fails_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 300, 30))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert waiting.LIMIT_SECONDS == 60.0
    with pytest.raises(AssertionError, match=r"not within 60 s: a pod; last: ValueError\('odd'\)"):
        until_sync(_fail, "a pod", ignoring=ValueError)


def _fail() -> None:
    raise ValueError("odd")
