"""The fixture of the tests of handovers."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory with a short path, as that of a Unix socket must be; its mode is 0700."""
    with tempfile.TemporaryDirectory(prefix="nmi-") as directory:
        yield Path(directory)
