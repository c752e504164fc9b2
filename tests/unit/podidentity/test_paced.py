"""Long work lets other tasks run after each slice of time; values of many objects are stored once, and bounded."""

import asyncio
from collections.abc import Iterator

from podidentity.paced import SLICE_SECONDS, paced
from podidentity.shared_values import SHARED_CHARS, SharedValues


async def pauses(seconds_for_a_step: float, steps: int) -> int:
    """Return how often another task runs during so many steps."""
    now, runs, done = 0.0, 0, 0

    def work() -> Iterator[None]:
        nonlocal now, done
        for _ in range(steps):
            now += seconds_for_a_step
            done += 1
            yield

    async def other() -> None:
        nonlocal runs
        while True:
            runs += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    await paced(work(), lambda: now)
    running.cancel()
    assert done == steps
    return runs


async def test_other_tasks_run_after_each_slice() -> None:
    assert await pauses(SLICE_SECONDS / 4, 40) >= 9


async def test_short_work_is_not_interrupted() -> None:
    assert await pauses(0.0, 40) == 0


def test_shared_values_are_bounded_and_stay_shared_while_they_are_used() -> None:
    shared: SharedValues[str, list[str]] = SharedValues(lambda text: [text], 10, length=len)
    used = shared.of("used")
    for number in range(1000):
        shared.of(f"text-{number}")
        assert shared.of("used") is used
        assert len(shared) <= 20
    assert shared.of("text-0") == ["text-0"]


def test_a_long_text_is_not_shared() -> None:
    shared: SharedValues[str, list[str]] = SharedValues(lambda text: [text], 10, length=len)
    assert shared.of("x" * (SHARED_CHARS + 1)) == ["x" * (SHARED_CHARS + 1)]
    assert len(shared) == 0
