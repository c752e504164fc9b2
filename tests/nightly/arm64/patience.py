"""Plugin of pytest for emulated programs, which take ten to thirty times as long: longer time limits of the tests."""

from typing import Final

import pytest

from tests.support import waiting
from tests.support.nmi.node import machines

SECONDS: Final = 90.0


def pytest_configure(config: pytest.Config) -> None:
    """Replace the time limits before a module imports them."""
    waiting.LIMIT_SECONDS = SECONDS  # type: ignore[misc]  # constant on real machines
    machines.SECONDS = SECONDS
