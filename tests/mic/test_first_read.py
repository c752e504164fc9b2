"""Garbage collections while MIC reads the whole cluster for the first time."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from mic.startup.first_read import few_full_collections

OBJECTS = 300_000


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The number of collections of each generation, at the interpreter's default thresholds."""
    counts, before = [0, 0, 0], gc.get_threshold()

    def note(phase: str, about: dict[str, int]) -> None:
        counts[about["generation"]] += phase == "start"

    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    gc.callbacks.append(note)
    try:
        yield counts
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*before)
        # No gc.unfreeze: tests/conftest.py froze the objects of all tests, which would make later collections long.


def test_objects_that_stay_cause_no_full_collection(collections: list[int]) -> None:
    with few_full_collections():
        kept = [[number] for number in range(OBJECTS)]
    assert len(kept) == OBJECTS
    assert collections[2] == 0
    assert collections[0] > 300


class Node:
    """An object in a cycle with itself."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_in_cycles_stays_bounded(collections: list[int]) -> None:
    alive: weakref.WeakSet[Node] = weakref.WeakSet()
    most = 0
    with few_full_collections():
        for _ in range(20_000):
            alive.add(Node())
            most = max(most, len(alive))
    assert most < 2_000


def test_the_thresholds_are_restored_after_a_failure() -> None:
    before = gc.get_threshold()
    with suppress(RuntimeError), few_full_collections():
        assert gc.get_threshold() != before
        raise RuntimeError
    assert gc.get_threshold() == before
