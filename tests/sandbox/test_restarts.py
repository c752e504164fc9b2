"""Times at which an ended program of the sandbox starts again."""

from dataclasses import dataclass

import pytest

from podidentity_sandbox.restarts import HEALTHY_SECONDS, LONGEST_SECONDS, Restarts


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def end_and_start(restarts: Restarts, clock: Clock) -> float:
    """Let the program end and start again as soon as it is due. Return the delay."""
    delay = restarts.ended()
    assert delay is not None
    clock.now += delay
    assert restarts.is_due()
    restarts.started()
    return delay


def test_a_program_starts_after_a_second(clock: Clock) -> None:
    restarts = Restarts(clock)
    assert restarts.ended() == 1.0
    clock.now += 0.9
    assert not restarts.is_due()
    clock.now += 0.1
    assert restarts.is_due()


def test_an_end_is_reported_once(clock: Clock) -> None:
    restarts = Restarts(clock)
    assert restarts.ended() is not None
    assert restarts.ended() is None
    clock.now += 1
    restarts.started()
    assert restarts.ended() is not None


def test_a_program_that_has_not_ended_is_never_due(clock: Clock) -> None:
    restarts = Restarts(clock)
    clock.now += 1000
    assert not restarts.is_due()


def test_the_delay_doubles_up_to_a_minute(clock: Clock) -> None:
    restarts = Restarts(clock)
    delays = [end_and_start(restarts, clock) for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, 32, LONGEST_SECONDS, LONGEST_SECONDS]


def test_the_delay_is_short_again_after_a_healthy_minute(clock: Clock) -> None:
    restarts = Restarts(clock)
    for _ in range(4):
        end_and_start(restarts, clock)
    clock.now += HEALTHY_SECONDS
    assert end_and_start(restarts, clock) == 1.0
    clock.now += HEALTHY_SECONDS - 1
    assert end_and_start(restarts, clock) == 2.0
