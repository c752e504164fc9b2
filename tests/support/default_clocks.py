"""The clocks that the product uses by default follow the running loop in a test in virtual time.

Parameters have `time.monotonic` as their default, also where a test cannot pass another clock. With the real clock, a
rate limit would refill and a pause would end by the time that the test itself takes.
"""

import asyncio
import inspect
import sys
import time
from collections.abc import Iterable
from types import FunctionType

from tests.support.virtual_time import VirtualTimeLoop


def default_clock() -> float:
    """Return the time of the running loop if it is virtual, else `time.monotonic()`."""
    loop = asyncio._get_running_loop()
    return loop.time() if isinstance(loop, VirtualTimeLoop) else time.monotonic()


def replace_default_clocks(packages: Iterable[str]) -> None:
    """Replace `time.monotonic` in the defaults of all functions that the loaded modules of *packages* contain."""
    for name, module in tuple(sys.modules.items()):
        if name.partition(".")[0] in packages:
            for owner in (module, *filter(inspect.isclass, vars(module).values())):
                for function in filter(inspect.isfunction, vars(owner).values()):
                    _replace(function)


def _replace(function: FunctionType) -> None:
    if function.__defaults__:
        function.__defaults__ = tuple(map(_replaced, function.__defaults__))
    if function.__kwdefaults__:
        function.__kwdefaults__ = {key: _replaced(value) for key, value in function.__kwdefaults__.items()}


def _replaced(default: object) -> object:
    return default_clock if default is time.monotonic else default
