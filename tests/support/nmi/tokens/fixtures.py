"""Running benches for sign-ins, and a fixture that captures all log lines."""

import io
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nmi.tokens import service_principal
from tests.selection import is_virtual
from tests.support.nmi.tokens import fakes
from tests.support.nmi.tokens.binding_bench import BindingBench, binding_bench
from tests.support.nmi.tokens.sign_in_bench import Bench, running
from tests.support.waiting import LIMIT_SECONDS


@pytest.fixture
async def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Yield a running bench, which is in memory for tests in virtual time."""
    monkeypatch.setattr(service_principal, "SIGNER_SECONDS", LIMIT_SECONDS)  # the signer is a real process
    async with running(Bench(loopback=not is_virtual(request.node))) as started:
        yield started


@pytest.fixture
async def fake() -> fakes.Bench:
    """Return a broker over a source in memory, for tests in virtual time."""
    return fakes.Bench()


@pytest.fixture
async def node() -> fakes.Node:
    """Return a broker over IMDS, for tests in virtual time."""
    return fakes.Node()


@pytest.fixture
async def bound(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BindingBench]:
    """Yield a running bench of identity bindings, which is in memory for tests in virtual time."""
    async with binding_bench(tmp_path, loopback=not is_virtual(request.node)) as started:
        yield started


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """All log lines of all libraries at every level, with tracebacks."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)
