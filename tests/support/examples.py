"""Number of examples of a property test: all by default, a quarter with the Hypothesis profile `quick`.

`make check` and `make test` use the profile, so that they stay short. `make test-examples` runs all examples.
"""

from typing import Final

from hypothesis import settings

ALL: Final = 100
"""Hypothesis's default, which a test without a number of its own runs."""
QUICK: Final = 25
"""The same in the profile `quick`."""


def examples(number: int) -> int:
    """Return the examples that a test with *number* examples runs in the current profile."""
    return max(1, number * settings().max_examples // ALL)


def every() -> int:
    """Return n if a test of many cases without random data, such as all calls of a scenario, runs each nth of them."""
    return max(1, ALL // settings().max_examples)
