"""The bytes of a ready answer while its remaining seconds decrease, its usage, and the histograms that count it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _native.answers import TokenAnswer, Usage
from _native.histogram import Histogram, Series

SECOND = 10**9
START = 1_000 * SECOND
BEFORE, AFTER = b'{"access_token":"t","expires_in":"', b'","token_type":"Bearer"}'


def answer(lives_seconds: int, before: bytes = BEFORE, after: bytes = AFTER) -> TokenAnswer:
    return TokenAnswer(
        before=before,
        after=after,
        expires_ns=START + lives_seconds * SECOND,
        fresh_until_ns=START,
        series=Histogram([1]).series(()),
        usage=Usage(),
    )


def expected(seconds: int, *, close: bool) -> bytes:
    body = BEFORE + str(seconds).encode() + AFTER
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, *([b"Connection: close"] if close else []), b"", b""]) + body


@pytest.mark.parametrize("lives", [0, 1, 9, 10, 86_399, 10**9])
@pytest.mark.parametrize("close", [False, True])
def test_a_ready_answer_is_complete_and_contains_the_remaining_seconds(lives: int, close: bool) -> None:
    assert answer(lives).render(START, close) == expected(lives, close=close)


def test_the_remaining_seconds_are_rounded_down_to_0() -> None:
    ready = answer(100)
    assert b'"expires_in":"100"' in ready.render(START)
    assert b'"expires_in":"99"' in ready.render(START + 1)
    assert b'"expires_in":"99"' in ready.render(START + SECOND)
    assert b'"expires_in":"98"' in ready.render(START + SECOND + 1)
    assert ready.render(START + 10**18) == expected(0, close=False)


@given(steps=st.lists(st.tuples(st.integers(-10, 200_000), st.booleans()), max_size=30))
def test_the_remaining_seconds_do_not_depend_on_earlier_writes(steps: list[tuple[int, bool]]) -> None:
    ready = answer(120_000)
    for passed, close in steps:
        assert ready.render(START + passed * SECOND, close) == expected(max(0, 120_000 - passed), close=close)


def test_an_answer_has_at_most_64_kib_including_its_head() -> None:
    room = 64 * 1024 - 160 - 20
    assert len(answer(10**9, b"b" * room, b"").render(START, close=True)) <= 64 * 1024
    with pytest.raises(ValueError, match="at most 65536 bytes"):
        answer(1, b"b" * room, b"a")


def test_a_ready_answer_is_immutable_and_its_repr_shows_no_content() -> None:
    ready = answer(1, b"secret")
    assert repr(ready) == "<ReadyAnswer>"
    with pytest.raises(TypeError, match="once"):
        ready.__init__(before=b"", after=b"", expires_ns=0, fresh_until_ns=0, series=ready.series, usage=ready.usage)


def test_usage_counts_since_it_was_last_read() -> None:
    usage = Usage()
    assert (usage.last_ns, usage.take()) == (0, 0)
    usage.touch()
    usage.touch()
    assert usage.last_ns > 0
    assert (usage.take(), usage.take()) == (2, 0)


def test_an_observation_counts_where_it_is_less_than_or_equal_to_the_bound() -> None:
    series = Histogram([0.001, 0.5]).series(("200",))
    for nanoseconds in (0, 1_000_000, 1_000_001, 500_000_000, 500_000_001, 10**15):
        series.observe(nanoseconds)
    assert series.counts() == (2, 2, 2)
    assert series.sum_nanoseconds == 0 + 1_000_000 + 1_000_001 + 500_000_000 + 500_000_001 + 10**15


def test_a_clock_that_goes_backwards_counts_as_no_time() -> None:
    series = Histogram([0.001]).series(())
    series.observe(-5)
    assert (series.counts(), series.sum_nanoseconds) == ((1, 0), 0)


def test_a_series_is_made_once_for_its_labels() -> None:
    histogram = Histogram([1])
    first, second = histogram.series(("a", "b")), histogram.series(("b", "a"))
    assert histogram.series(("a", "b")) is first
    assert first is not second
    assert first.labels == ("a", "b")
    assert histogram.all_series() == [first, second]


@pytest.mark.parametrize("bounds", [[], [0], [-1], [1, 1], [2, 1], [float("inf")], [float("nan")], list(range(1, 33))])
def test_invalid_bounds_are_rejected(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="bound"):
        Histogram(bounds)


def test_at_most_31_bounds_are_accepted() -> None:
    histogram = Histogram(list(range(1, 32)))
    assert histogram.bounds_seconds == tuple(map(float, range(1, 32)))
    series = histogram.series(())
    series.observe(10**12)
    assert series.counts() == (0,) * 31 + (1,)


def test_only_a_histogram_makes_a_series() -> None:
    with pytest.raises(TypeError, match=r"made by Histogram\.series"):
        Series()
