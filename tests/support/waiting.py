"""Wait until a condition holds that another task, thread or program causes.

Each wait has the same limit, LIMIT_SECONDS. It only ends a test that has failed: no test waits for the limit, and no
slow machine reaches it. So it never decides a result, and need not suit the condition.

A condition returns a value, and the wait ends when the value is true, or when *holds* returns true for it. The wait
returns the value. Errors of the types *ignoring* mean that the condition does not hold yet. After the limit the wait
raises AssertionError with *what*, which is a text or returns one, such as a log, and with the last value or error.
"""

import asyncio
import inspect
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

T = TypeVar("T")
What = str | Callable[[], str]
Errors = type[Exception] | tuple[type[Exception], ...]

LIMIT_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.002
"""The least pause between two calls of a condition. A condition that takes longer is followed by a longer pause."""
READY_ROUNDS: Final = 100
"""Rounds of the event loop in virtual time before the first pause: what is ready happens before time passes."""


@overload
async def until(
    condition: Callable[[], Awaitable[T]],
    what: What = ...,
    *,
    holds: Callable[[T], object] = ...,
    ignoring: Errors = ...,
) -> T: ...
@overload
async def until(
    condition: Callable[[], T], what: What = ..., *, holds: Callable[[T], object] = ..., ignoring: Errors = ...
) -> T: ...
async def until(
    condition: Callable[[], Any],
    what: What = "the condition",
    *,
    holds: Callable[[Any], object] = bool,
    ignoring: Errors = (),
) -> Any:
    """Run the event loop until *condition* holds, which may be asynchronous. Return its value."""
    __tracebackhide__ = True
    now, last = asyncio.get_running_loop().time, None
    try:
        async with asyncio.timeout(LIMIT_SECONDS) as limit:
            for calls in itertools.count():
                begun = now()
                try:
                    value = condition()
                    if inspect.isawaitable(value):
                        value = await value
                    if holds(value):
                        return value
                    last = value
                except ignoring as error:
                    last = error
                took = now() - begun  # zero in virtual time only
                await asyncio.sleep(max(PAUSE_SECONDS, took) if took or calls >= READY_ROUNDS else 0.0)
    except TimeoutError:
        if not limit.expired():
            raise
    raise _failure(what, last)


def until_sync(
    condition: Callable[[], T],
    what: What = "the condition",
    *,
    holds: Callable[[T], object] = bool,
    ignoring: Errors = (),
) -> T:
    """Block this thread until *condition* holds. Return its value."""
    __tracebackhide__ = True
    last: T | Exception
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        begun = time.monotonic()
        try:
            last = condition()
            if holds(last):
                return last
        except ignoring as error:
            last = error
        if time.monotonic() > end:
            raise _failure(what, last)
        time.sleep(max(PAUSE_SECONDS, time.monotonic() - begun))


def _failure(what: What, last: object) -> AssertionError:
    text = what if isinstance(what, str) else what()
    return AssertionError(f"not within {LIMIT_SECONDS:.0f} s: {text}; last: {last!r}")
