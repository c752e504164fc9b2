"""Commands that must not leave anything behind when a signal ends them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import typer

T = TypeVar("T")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def until_signal(work: Coroutine[Any, Any, T], clean_up: Callable[[], Awaitable[None]] | None = None) -> T:
    """Return the result of *work* after *clean_up*. One of SIGNALS cancels the work; none of them ends the clean-up.

    Raises typer.Exit with a shell's exit code for the signal. A signal that is ignored, as by nohup, stays ignored.
    """
    task = asyncio.create_task(work, name="interruptible work")
    received: list[signal.Signals] = []

    def interrupt(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
    # Not `await task`: the clean-up must also run if the work was cancelled or has failed.
    await asyncio.wait({task})
    if clean_up is not None:
        await clean_up()
    if received:
        task.cancelled() or task.exception()  # read, so that asyncio does not report it
        raise typer.Exit(128 + received[0])
    return task.result()
