"""The time limits of a test, as an exception that neither Hypothesis nor an event loop catches.

A test that computes ends at a limit of its process's CPU time, which does not depend on the machine's other load. A
test that waits ends at a limit of real time. Both only end a test that would not end: `waiting` has a limit for waits.

pytest-timeout raises a failure at the place where the test is. Hypothesis takes it for an example that fails, and looks
for a smaller one for minutes, without a limit. An event loop in a callback or a task logs it, and the test continues.
Only KeyboardInterrupt ends both.
"""

import signal
from collections.abc import Generator
from types import FrameType
from typing import Final

import pytest
import pytest_timeout

CPU_SECONDS: Final = 120.0
"""The CPU time of a test's process, but at most half of the limit of real time."""
AGAIN_SECONDS: Final = 10.0
"""After this time the limit ends a clean-up too."""


class TimeLimit(KeyboardInterrupt):
    """The time limit of the running test has passed."""


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> bool | None:
    """Set the timers of *item*; leave other methods than a signal to pytest-timeout."""
    if settings.method != "signal":
        return None
    cpu_seconds = min(CPU_SECONDS, settings.timeout / 2)

    def reached(number: int, _frame: FrameType | None) -> None:
        limit = f"{settings.timeout}s" if number == signal.SIGALRM else f"{cpu_seconds}s of CPU time"
        pytest_timeout.dump_stacks(item.config.get_terminal_writer())  # of the other threads
        raise TimeLimit(f"Timeout (>{limit}): the test did not end")

    signal.signal(signal.SIGALRM, reached)
    signal.signal(signal.SIGPROF, reached)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, AGAIN_SECONDS)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds, AGAIN_SECONDS)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer() -> None:
    """Stop the timers; pytest-timeout has none to stop then."""
    _stop()


def _stop() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)


def _as_a_failure() -> Generator[None, object, object]:
    """Report the limit as the failure of this test. pytest would end the session for a KeyboardInterrupt."""
    try:
        return (yield)
    except TimeLimit as error:
        _stop()
        raise pytest.fail.Exception(str(error)) from error


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    return (yield from _as_a_failure())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    return (yield from _as_a_failure())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    return (yield from _as_a_failure())
