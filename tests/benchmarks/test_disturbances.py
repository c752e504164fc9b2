"""A disturbance during a load runs at its interval, and its errors are reported."""

import threading

import pytest

from benchmarks.load.disturbances import repeated

PATIENCE_SECONDS = 60.0


def test_a_disturbance_is_repeated_until_the_load_ends() -> None:
    """No thread is left: conftest.py checks that."""
    calls = threading.Semaphore(0)
    with repeated(calls.release, 0.01):
        assert all(calls.acquire(timeout=PATIENCE_SECONDS) for _ in range(3))


def test_a_failed_disturbance_raises_after_the_load_has_ended() -> None:
    failed = threading.Event()

    def call() -> None:
        failed.set()
        raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"), repeated(call, 0.01):
        assert failed.wait(PATIENCE_SECONDS)
