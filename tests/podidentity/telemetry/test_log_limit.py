"""One log line per period for all components that share the limit."""

from podidentity.telemetry.log_limit import LogLimit


def test_one_line_per_period() -> None:
    now = 100.0
    limit = LogLimit(60.0, clock=lambda: now)
    assert [limit.allows(), limit.allows()] == [True, False]
    now += 59.9
    assert not limit.allows()
    now += 0.1
    assert [limit.allows(), limit.allows()] == [True, False]


def test_suppressed_lines_do_not_delay_the_next_one() -> None:
    now = 0.0
    limit = LogLimit(60.0, clock=lambda: now)
    allowed = []
    while now < 600.0:
        allowed.append(limit.allows())
        now += 1.0
    assert allowed.count(True) == 10
