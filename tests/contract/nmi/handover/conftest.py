"""Virtual time, and a safe path. The Unix sockets of these tests connect tasks of one loop."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from tests.support.virtual_time import VirtualTimeLoop

P = ParamSpec("P")
T = TypeVar("T")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualTimeLoop}


async def run_as_in_a_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *function*, which may block, without a running loop."""
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return function(*args, **kwargs)
    finally:
        asyncio._set_running_loop(loop)


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "to_thread", run_as_in_a_thread)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "nmi.sock"
