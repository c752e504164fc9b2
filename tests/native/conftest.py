"""Everything async in the compiled data plane's tests runs on asyncio's loop and on uvloop."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test on uvloop, which the programs use, and on asyncio's loop, on which nothing may differ."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
