"""Detection of a machine that was suspended, by two clocks."""

import asyncio

import pytest

from podidentity.machine_sleep import CHECK_SECONDS, MachineSleep, MachineSleptError, end_after_sleep


class Machine:
    """A machine with both clocks, and the detection of its suspensions."""

    def __init__(self) -> None:
        self.boot, self.monotonic = 5000.0, 1000.0
        self.sleep = MachineSleep(boot=lambda: self.boot, monotonic=lambda: self.monotonic)

    def run(self, seconds: float) -> None:
        self.suspend(seconds)
        self.monotonic += seconds

    def suspend(self, seconds: float) -> None:
        self.boot += seconds


def test_a_machine_that_runs_for_days_was_not_suspended() -> None:
    machine = Machine()
    machine.run(1_000_000)
    assert machine.sleep.since_last_call() == 0


def test_a_sleep_is_reported_once() -> None:
    machine = Machine()
    machine.suspend(7200)
    machine.run(1)
    assert machine.sleep.since_last_call() == pytest.approx(7200)
    assert machine.sleep.since_last_call() == 0


def test_less_than_a_minute_is_not_reported_and_short_sleeps_add_up() -> None:
    machine = Machine()
    machine.suspend(59)
    assert machine.sleep.since_last_call() == 0
    machine.suspend(1)
    assert machine.sleep.since_last_call() == pytest.approx(60)


def test_the_clocks_of_this_machine_agree() -> None:
    assert MachineSleep().since_last_call() == 0


async def test_the_program_ends_soon_after_a_sleep() -> None:
    machine = Machine()
    ending = asyncio.create_task(end_after_sleep(machine.sleep))
    await asyncio.sleep(10 * CHECK_SECONDS)
    assert not ending.done()
    machine.suspend(5400)
    with pytest.raises(MachineSleptError, match="suspended for 5400 s"):
        await asyncio.wait_for(ending, CHECK_SECONDS)
