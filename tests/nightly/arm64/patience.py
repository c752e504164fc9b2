"""Plugin of pytest for emulated programs, which take ten to thirty times as long: longer time limits of the tests."""

from typing import Final

import pytest

from tests.contract.native import serving
from tests.support.nmi.node import machines

SECONDS: Final = 90.0


def pytest_configure(config: pytest.Config) -> None:
    """Replace the time limits before a module imports them."""
    serving.PATIENCE_SECONDS = machines.SECONDS = SECONDS
