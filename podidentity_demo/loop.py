"""The loop: each step once, one line for each, then a pause."""

import time
from collections.abc import Callable, Sequence

from podidentity_demo.steps import Step, StepError


def go_round(steps: Sequence[Step], say: Callable[[str], None]) -> list[str]:
    """Run each step and print its line. A step that fails does not prevent the next ones.

    Return the names of the failed steps.
    """
    failed = []
    for name, step in steps:
        try:
            line = step()
        except StepError as failure:
            failed.append(name)
            line = f"failed to {name}, error: {failure}"
        if line:
            say(line)
    return failed


def run(
    steps: Sequence[Step],
    *,
    wait_seconds: float,
    once_seconds: float | None,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Repeat the steps; with *once_seconds* until all succeed, for at most this time. Return the exit code."""
    began = clock()
    while True:
        failed = go_round(steps, say)
        if once_seconds is not None:
            if not failed:
                return 0
            if clock() - began + wait_seconds > once_seconds:
                say(f"gave up after {clock() - began:.0f} s; failed last: {'; '.join(failed)}")
                return 1
        sleep(wait_seconds)
