"""Pauses between polls of Azure's operations: short enough to notice the end soon, within Azure's limit of reads."""

import pytest

from mic.azure.compute import POLL_LAST_SECONDS, poll_pause

REFILLED_PER_SECOND = 25
"""Reads that Azure Resource Manager refills for a subscription and a client."""


def growing(waited: float) -> float:
    return min(max(0.2, 0.08 * waited), POLL_LAST_SECONDS)


def polls(seconds: float, running: int) -> tuple[int, float]:
    """Return the number of polls of an operation that takes *seconds*, and the last pause."""
    waited, count, pause = 0.0, 0, 0.0
    while waited < seconds:
        pause = poll_pause(waited, running)
        waited += pause
        count += 1
    return count, pause


@pytest.mark.parametrize(
    ("seconds", "running", "late", "most"),
    [
        (0.2, 1, 0.2, 1),
        (5.0, 1, 0.4, 22),
        (5.0, 3, 0.4, 22),
        (40.0, 1, 0.5, 92),
        (40.0, 2, 0.5, 92),
        (40.0, 6, 0.5, 92),
        (40.0, 10, 0.84, 67),
        (40.0, 400, 3.2, 49),
        (1800.0, 1, POLL_LAST_SECONDS, 558),
    ],
)
def test_the_end_of_an_operation_is_noticed_soon(seconds: float, running: int, late: float, most: int) -> None:
    count, pause = polls(seconds, running)
    assert pause <= late
    assert count <= most


@pytest.mark.parametrize("running", [1, 2, 3, 6, 8, 16, 29, 59])
def test_pauses_are_shortened_only_to_a_fraction_of_azures_limit(running: int) -> None:
    for waited in range(1800):
        pause = poll_pause(waited, running)
        if pause < growing(waited):
            assert running / pause <= REFILLED_PER_SECOND / 2


@pytest.mark.parametrize("running", [60, 100, 400])
def test_many_operations_are_polled_as_rarely_as_a_growing_pause_allows(running: int) -> None:
    for waited in range(1800):
        assert poll_pause(waited, running) == growing(waited)


def test_pauses_do_not_shrink_while_an_operation_runs() -> None:
    pauses = [poll_pause(waited / 10, 1) for waited in range(20_000)]
    assert pauses == sorted(pauses)
