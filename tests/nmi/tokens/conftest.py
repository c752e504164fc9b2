"""A bench for sign-ins, running, and an ear for all that is logged."""

import io
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.nmi.tokens.sign_in_bench import Bench, running


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(Bench()) as started:
        yield started


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """All lines of all libraries, however verbose, with tracebacks."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)
