"""A disturbance during a load runs at its interval, and its errors are reported."""

import threading
from itertools import count

import pytest

from benchmarks.load.disturbances import repeated

PATIENCE_SECONDS = 10.0


def test_a_disturbance_is_repeated_until_the_load_ends() -> None:
    thrice, times = threading.Event(), count(1)

    def call() -> None:
        if next(times) == 3:
            thrice.set()

    with repeated(call, 0.01):
        assert thrice.wait(PATIENCE_SECONDS)
    ended_after = next(times)
    threading.Event().wait(0.05)
    assert next(times) == ended_after + 1


def test_a_failed_disturbance_raises_after_the_load_has_ended() -> None:
    failed = threading.Event()

    def call() -> None:
        failed.set()
        raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"), repeated(call, 0.01):
        assert failed.wait(PATIENCE_SECONDS)


def test_no_disturbance_does_nothing() -> None:
    before = set(threading.enumerate())
    with repeated(None, 0.01):
        assert set(threading.enumerate()) <= before
