"""One log line per period for all components that share the limit."""

import pytest

from podidentity.telemetry.log_limit import LogLimit


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
