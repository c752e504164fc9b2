"""Durations as Go's time.ParseDuration reads them. Excluded: flags (test_go_spellings)."""

import argparse

import pytest

from podidentity.flags import go_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("45s", 45.0),
        ("3m", 180.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("250μs", 0.00025),
        ("10ns", 1e-8),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("-2m", -120.0),
        ("+2m", 120.0),
        ("2562047h", 2562047 * 3600.0),
    ],
)
def test_values_that_go_accepts_are_parsed_equally(text: str, seconds: float) -> None:
    assert go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "1", "1.5", "1d", "1 s", " 1s", "1s ", "1s2", "1e3s", ".s", "--1s", "٣s", "1s\n"]
)
def test_values_that_go_rejects_are_rejected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        go_duration(text)


def test_a_number_without_a_unit_is_rejected_with_the_correct_spelling() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"'45' lacks a unit; write 45s"):
        go_duration("45")


def test_a_duration_that_overflows_in_go_is_rejected() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="292 years"):
        go_duration("2562048h")
