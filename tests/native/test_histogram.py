"""Histograms: the bucket of each value."""

import pytest

from _native.histogram import Histogram, Series


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


def test_bounds_are_kept_as_given() -> None:
    assert Histogram([0.1, 2]).bounds_seconds == (0.1, 2.0)


@pytest.mark.parametrize("bounds", [[], [0], [-1], [1, 1], [2, 1], [float("inf")], [float("nan")], list(range(1, 33))])
def test_invalid_bounds_are_rejected(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="bound"):
        Histogram(bounds)


def test_at_most_31_bounds_are_accepted() -> None:
    series = Histogram(list(range(1, 32))).series(())
    series.observe(10**12)
    assert series.counts() == (0,) * 31 + (1,)


def test_only_a_histogram_makes_a_series() -> None:
    with pytest.raises(TypeError, match=r"made by Histogram\.series"):
        Series()
