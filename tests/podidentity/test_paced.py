"""Long work lets other tasks of the event loop run after each slice of time."""

import asyncio
from collections.abc import Iterator

from podidentity.paced import SLICE_SECONDS, paced


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
