"""The comparison of counts with the baseline: accepted and reported differences."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.guard.baseline import (
    BASELINE,
    Baseline,
    Counts,
    Environment,
    deviations,
    nearest,
    read,
    write,
)

HERE = Environment("x86_64", "gcc 12", "3.3", "3.11", "3.11.7 GCC 12.2.0, glibc 2.36, uvloop 0.23.0")
OTHER_BUILD = replace(HERE, build="3.11.9 GCC 13.1.0, glibc 2.36, uvloop 0.23.0")
OTHER_PYTHON = replace(OTHER_BUILD, python="3.12")
ELSEWHERE = Environment("aarch64", "clang 17", "3.2", "3.13", "3.13.0 Clang 17, glibc 2.39, uvloop 0.23.0")
COUNTS = Counts(
    instructions=5600.0,
    native=4800.0,
    allocations=0.5,
    system_calls={"recvfrom": 1.0, "sendto": 1.0, "epoll_wait": 0.031},
    functions={"scan:scan_head": 3000.0, "query:read_query": 1200.0, "libc:memcmp": 200.0},
)
BASE = Baseline(HERE, {"keep-alive": COUNTS})


def deviations_of(now: Counts, environment: Environment = HERE) -> list[str]:
    return deviations(BASE, environment, {"keep-alive": now})


def grown(count: float, share: float) -> float:
    return count * (1 + share)


def test_equal_counts_are_accepted() -> None:
    assert deviations_of(COUNTS) == []


@pytest.mark.parametrize("share", [0.029, -0.029])
def test_a_change_within_the_limit_is_accepted(share: float) -> None:
    assert deviations_of(replace(COUNTS, instructions=grown(5600, share), native=grown(4800, share))) == []


@pytest.mark.parametrize("share", [0.031, -0.031])
def test_a_change_beyond_the_limit_is_reported_in_both_directions(share: float) -> None:
    (whole,) = deviations_of(replace(COUNTS, instructions=grown(5600, share)))
    (native,) = deviations_of(replace(COUNTS, native=grown(4800, share)))

    assert "in _native" not in whole
    assert "in _native" in native
    for each in (whole, native):
        assert f"{share:+.1%}" in each
        assert "at most 3%" in each


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"recvfrom": 1.0, "sendto": 2.0, "epoll_wait": 0.031}, "1.00 -> 2.00 (+100.0%) calls of sendto"),
        ({"recvfrom": 1.0, "sendto": 1.0}, "0.03 -> 0.00 (-100.0%) calls of epoll_wait"),
        ({**COUNTS.system_calls, "futex": 0.01}, "0.00 -> 0.01 calls of futex"),
    ],
)
def test_an_added_or_removed_system_call_is_reported(changed: Mapping[str, float], expected: str) -> None:
    (line,) = deviations_of(replace(COUNTS, system_calls=changed))
    assert expected in line


@pytest.mark.parametrize("allocations", [0.53, 0.47])
def test_an_added_or_removed_allocation_is_reported(allocations: float) -> None:
    (line,) = deviations_of(replace(COUNTS, allocations=allocations))
    assert "allocations a request" in line


def test_a_batch_that_only_one_side_has_is_reported() -> None:
    found = {"keep-alive": COUNTS, "new": COUNTS}
    assert deviations(BASE, HERE, found) == ["new: only counted."]
    assert deviations(Baseline(HERE, found), HERE, {"keep-alive": COUNTS}) == ["new: only in the baseline."]


def test_with_another_python_build_our_code_still_has_the_narrow_limit() -> None:
    assert deviations_of(replace(COUNTS, instructions=grown(5600, 0.2)), OTHER_BUILD) == []
    (line,) = deviations_of(replace(COUNTS, native=grown(4800, 0.031)), OTHER_BUILD)
    assert "at most 3%" in line


def test_in_another_environment_the_limit_is_wider() -> None:
    assert deviations_of(replace(COUNTS, native=grown(4800, 0.2)), OTHER_PYTHON) == []
    (line,) = deviations_of(replace(COUNTS, native=grown(4800, 0.26)), OTHER_PYTHON)
    assert "at most 25%" in line


def test_in_another_environment_fewer_allocations_and_calls_are_accepted_and_more_are_not() -> None:
    fewer = replace(COUNTS, allocations=0.1, system_calls={"recvfrom": 1.0, "sendto": 1.0})
    more = replace(COUNTS, allocations=0.7, system_calls={**COUNTS.system_calls, "epoll_ctl": 1.0})
    assert deviations_of(fewer, OTHER_PYTHON) == []
    assert len(deviations_of(more, OTHER_PYTHON)) == 2


def test_the_baseline_of_the_same_environment_or_else_of_the_same_machine_and_python_is_used() -> None:
    every = [Baseline(each, {}) for each in (ELSEWHERE, OTHER_PYTHON, OTHER_BUILD, HERE)]
    assert nearest(every, HERE).environment == HERE
    assert nearest(every[:3], HERE).environment == OTHER_BUILD
    assert nearest(every[:2], HERE).environment == OTHER_PYTHON
    assert nearest(every[:1], HERE).environment == ELSEWHERE


def test_a_written_baseline_can_be_read(tmp_path: Path) -> None:
    write([BASE], tmp_path / "baseline.json")
    assert read(tmp_path / "baseline.json") == [BASE]


def test_the_committed_baseline_lists_the_system_calls_of_the_hot_path() -> None:
    """The numbers of the design: a response takes one recv and one send, independently of other clients."""
    for base in read(BASELINE):
        calls = base.batches["keep-alive on 32 connections"].system_calls
        assert {name: calls[name] for name in ("recvfrom", "sendto")} == {"recvfrom": 1.0, "sendto": 1.0}
        assert sum(calls.values()) < 2.1
        assert base.batches["keep-alive on 32 connections"].allocations < 0.1
