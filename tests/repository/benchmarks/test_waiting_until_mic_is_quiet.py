"""The wait for an idle MIC ends, also if MIC never becomes idle."""

from collections.abc import Callable

import pytest

from benchmarks.controller.quiet import Quiet, until_quiet


async def quiet(share: Callable[[float], float], limit_seconds: float, reads: int = 0) -> Quiet:
    """Wait for a program with *share* of a core and *reads* per second, by the time in seconds."""
    now = cpu = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, cpu
        cpu += share(now) * seconds
        now += seconds

    found = await until_quiet(
        lambda: cpu, lambda: int(now) * reads, limit_seconds=limit_seconds, clock=lambda: now, sleep=sleep
    )
    assert now <= limit_seconds
    return found


async def test_the_first_idle_second_ends_the_wait() -> None:
    found = await quiet(lambda at: 0.8 if at < 7 else 0.01, 120.0)
    assert (found.reached, found.since) == (True, 7.0)
    assert found.share == pytest.approx(0.01)


async def test_a_busy_program_ends_the_wait_at_the_limit_with_its_share() -> None:
    found = await quiet(lambda _at: 0.3, 20.0)
    assert not found.reached
    assert found.share == pytest.approx(0.3)


async def test_periodic_reads_of_hosts_are_no_work() -> None:
    assert (await quiet(lambda _at: 0.075, 5.0, reads=17)).reached
    assert not (await quiet(lambda _at: 0.075, 5.0)).reached
