"""Detection of a machine that was suspended, by two clocks."""

import asyncio
from dataclasses import dataclass

import pytest

from podidentity.machine_sleep import CHECK_SECONDS, MachineSleep, MachineSleptError, end_after_sleep


@dataclass
class Machine:
    """A machine with both clocks."""

    boot: float = 5000.0
    monotonic: float = 1000.0

    def run(self, seconds: float) -> None:
        self.boot += seconds
        self.monotonic += seconds

    def suspend(self, seconds: float) -> None:
        self.boot += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def sleep(machine: Machine) -> MachineSleep:
    return MachineSleep(boot=lambda: machine.boot, monotonic=lambda: machine.monotonic)


def test_a_machine_that_runs_for_days_was_not_suspended(machine: Machine, sleep: MachineSleep) -> None:
    machine.run(1_000_000)
    assert sleep.since_last_call() == 0


def test_a_sleep_is_reported_once(machine: Machine, sleep: MachineSleep) -> None:
    machine.suspend(7200)
    machine.run(1)
    assert sleep.since_last_call() == pytest.approx(7200)
    assert sleep.since_last_call() == 0


@pytest.mark.parametrize(("seconds", "noticed"), [(59, False), (60, True)])
def test_less_than_a_minute_is_not_reported(
    machine: Machine, sleep: MachineSleep, seconds: float, noticed: bool
) -> None:
    machine.suspend(seconds)
    assert bool(sleep.since_last_call()) is noticed


def test_short_sleeps_add_up(machine: Machine, sleep: MachineSleep) -> None:
    machine.suspend(40)
    assert sleep.since_last_call() == 0
    machine.suspend(40)
    assert sleep.since_last_call() == pytest.approx(80)


def test_the_clocks_of_this_machine_agree() -> None:
    assert MachineSleep().since_last_call() == 0


async def test_the_program_ends_soon_after_a_sleep() -> None:
    machine = Machine()
    sleep = MachineSleep(boot=lambda: machine.boot, monotonic=lambda: machine.monotonic)
    ending = asyncio.create_task(end_after_sleep(sleep))
    await asyncio.sleep(10 * CHECK_SECONDS)
    assert not ending.done()
    machine.suspend(5400)
    with pytest.raises(MachineSleptError, match="suspended for 5400 s"):
        await asyncio.wait_for(ending, CHECK_SECONDS)
