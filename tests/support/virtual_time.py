"""An event loop whose clock jumps to the next timer instead of waiting, so that minutes pass in milliseconds.

It works for tests without sockets, or with Unix sockets between tasks of the same loop, where written data can be read
immediately. The loop cannot distinguish waiting for another process from having nothing to do.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, ParamSpec, TypeVar, TypeVarTuple, Unpack

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

JUMPS_MAX: Final = 50_000
"""Jumps to the next timer in one run of the loop. They take seconds, and no test needs a quarter of them.

A test that waits for an event that does not come, while a program's timers repeat, would otherwise end at the limit of
its CPU time.
"""


class _JumpingSelector(selectors.SelectSelector):
    """Selector that never waits and adds up the time that it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0
        self.jumps = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:  # type: ignore[explicit-override]  # typing.override is newer than Python 3.11
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("the test waits for an event that no task or timer causes")
        if timeout > 0.0:
            self.skipped += timeout
            self.jumps += 1
            if self.jumps > JUMPS_MAX:
                raise RuntimeError(f"the test waits for an event that has not come after {JUMPS_MAX} timers")
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def run_forever(self) -> None:  # type: ignore[explicit-override]  # typing.override is newer than Python 3.11
        self._jumping.jumps = 0
        super().run_forever()

    def time(self) -> float:  # type: ignore[explicit-override]  # typing.override is newer than Python 3.11
        return 1000.0 + self._jumping.skipped

    def run_in_executor(  # type: ignore[explicit-override]  # typing.override is newer than Python 3.11
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call the function in this thread, because the clock does not wait for other threads."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - raised where the future is awaited
            done.set_exception(error)
        return done


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Return a synchronous test that runs the async *test* on a VirtualTimeLoop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def now() -> float:
    """Return the running loop's time, the clock to inject into the code under test."""
    return asyncio.get_running_loop().time()


async def settle(rounds: int = 20) -> None:
    """Run all callbacks that are ready without a timer."""
    for _ in range(rounds):
        await asyncio.sleep(0)
