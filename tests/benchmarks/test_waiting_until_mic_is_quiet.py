"""The wait for an idle MIC ends, also if MIC never becomes idle."""

from collections.abc import Callable

import pytest

from benchmarks.controller.quiet import Quiet, until_quiet


class Program:
    """A program with *share* of a core and *reads* per second, by the time in seconds; the time is injected."""

    def __init__(self, share: Callable[[float], float], reads: int = 0) -> None:
        self._share = share
        self._reads = reads
        self.now = 1000.0
        self._cpu = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self._cpu += self._share(self.now - 1000.0) * seconds
        self.now += seconds

    async def until_quiet(self, limit_seconds: float) -> Quiet:
        return await until_quiet(
            lambda: self._cpu,
            lambda: int(self.now) * self._reads,
            limit_seconds=limit_seconds,
            clock=self.clock,
            sleep=self.sleep,
        )


async def test_the_first_idle_second_ends_the_wait() -> None:
    program = Program(lambda at: 0.8 if at < 7 else 0.01)
    quiet = await program.until_quiet(120.0)
    assert quiet.reached
    assert quiet.since == 1007.0
    assert quiet.share == pytest.approx(0.01)


async def test_a_busy_program_ends_the_wait_at_the_limit_with_its_share() -> None:
    program = Program(lambda _at: 0.3)
    quiet = await program.until_quiet(20.0)
    assert not quiet.reached
    assert program.now == 1020.0
    assert quiet.share == pytest.approx(0.3)


async def test_periodic_reads_of_hosts_are_no_work() -> None:
    assert (await Program(lambda _at: 0.075, reads=17).until_quiet(5.0)).reached
    assert not (await Program(lambda _at: 0.075).until_quiet(5.0)).reached
