"""Repeated lines cannot flood the log and are counted; components that share a limit are limited together."""

import logging

import pytest

from podidentity.telemetry.log_limit import LogLimit
from podidentity.telemetry.logs import BoundedRepeats, has_own_limit


def record(message: str = "refused", level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("nmi", level, "", 0, message, (), None)
    made.__dict__.update(fields)
    return made


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def repeats(clock: list[float]) -> BoundedRepeats:
    return BoundedRepeats(remember=3, window_seconds=60, clock=lambda: clock[0])


def test_the_first_line_passes_and_its_repeats_do_not(repeats: BoundedRepeats) -> None:
    assert [repeats.filter(record(pod="a")) for _ in range(3)] == [True, False, False]
    assert repeats.filter(record(pod="b"))
    assert repeats.filter(record("granted", pod="a"))


def test_varying_the_fields_that_an_attacker_controls_has_no_effect(repeats: BoundedRepeats) -> None:
    assert repeats.filter(record(pod="a", path="/1", error="x"))
    assert not repeats.filter(record(pod="a", path="/2", error="y"))


def test_after_the_window_one_line_summarises_the_repeats(repeats: BoundedRepeats, clock: list[float]) -> None:
    for _ in range(5):
        repeats.filter(record())
    clock[0] = 60.0
    summary = record()
    assert repeats.filter(summary)
    assert summary.__dict__["count"] == 5
    clock[0] = 120.0
    alone = record()
    assert repeats.filter(alone)
    assert "count" not in alone.__dict__


def test_memory_is_bounded_to_the_most_recent_lines(repeats: BoundedRepeats) -> None:
    for pod in "abcd":
        assert repeats.filter(record(pod=pod))
    assert repeats.filter(record(pod="a"))
    assert not repeats.filter(record(pod="d"))


def test_repeats_are_debug_lines_if_debug_is_enabled() -> None:
    repeats = BoundedRepeats(level=logging.DEBUG)
    repeats.filter(record())
    again = record()
    assert repeats.filter(again)
    assert (again.levelno, again.levelname) == (logging.DEBUG, "DEBUG")


def test_exceptions_and_debug_lines_are_not_counted(repeats: BoundedRepeats) -> None:
    for _ in range(2):
        failed = record()
        failed.exc_info = (ValueError, ValueError("x"), None)
        assert repeats.filter(failed)
        assert not repeats.filter(record(level=logging.DEBUG))


def test_a_logger_with_a_limit_of_its_own_is_exempt_and_its_neighbour_is_not(repeats: BoundedRepeats) -> None:
    for _ in range(2):
        limited = record()
        assert has_own_limit(limited)
        assert repeats.filter(limited)
    assert [repeats.filter(record()) for _ in range(2)] == [True, False]


def test_one_line_per_period() -> None:
    now = 100.0
    limit = LogLimit(clock=lambda: now)
    assert [limit.allows(), limit.allows()] == [True, False]
    now += 59.9
    assert not limit.allows()
    now += 0.2
    assert [limit.allows(), limit.allows()] == [True, False]


def test_suppressed_lines_do_not_delay_the_next_one() -> None:
    now = 0.0
    limit = LogLimit(clock=lambda: now)
    allowed = []
    while now < 600.0:
        allowed.append(limit.allows())
        now += 1.0
    assert allowed.count(True) == 10


def test_the_first_line_that_is_left_out_is_replaced_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    limit = LogLimit(burst=2.0, per_second=1.0, omission="more than are logged", clock=lambda: now)
    assert [limit.allows() for _ in range(5)] == [True, True, False, False, False]
    assert caplog.messages == ["more than are logged"]
    now += 1.0
    assert limit.allows()
    assert limit.left_out == 3
    assert not limit.allows()
    assert caplog.messages == ["more than are logged"] * 2


def test_one_group_takes_its_share_and_leaves_the_rest_to_others() -> None:
    limit = LogLimit(burst=8.0, per_second=1.0, share=0.25, clock=lambda: 0.0)
    assert [limit.allows("hostile") for _ in range(4)] == [True, True, False, False]
    assert limit.allows("other")
    assert [limit.allows(f"group-{number}") for number in range(6)] == [True] * 5 + [False]
