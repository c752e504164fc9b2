"""The refreshed view on a terminal: reads all NMIs at an interval and redraws after each read and each key."""

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console, RenderableType
from rich.live import Live

from podidctl.top.sampling import Read, Sample, Sampler
from podidctl.top.view import View, keys, render
from podidentity.kube.errors import ApiError
from podidentity.report import plain

TYPED_MAX: Final = 64
"""Bytes of one read from the terminal."""
HANGUP: Final = b"q"
"""The key that a read of a closed terminal returns."""
OTHER_LINES: Final = 7
"""Lines of the screen around the rows of the table."""

Draw = Callable[[RenderableType], None]


class LiveView:
    """The state of the view between two redraws."""

    def __init__(self, sampler: Sampler, draw: Draw, *, interval_seconds: float, height: Callable[[], int]) -> None:
        """*height* returns the lines of the screen."""
        self._sampler = sampler
        self._draw = draw
        self._interval = interval_seconds
        self._height = height
        self._sample: Sample | None = None
        self.view = View()

    async def run(self, typed: "asyncio.Queue[bytes]") -> None:
        """Refresh until a key quits. Raises ApiError if the first read fails; later failures are shown."""
        await self._refresh()
        refreshing = asyncio.create_task(self._keep_refreshing(), name="refresh")
        try:
            while not self.view.quit:
                reading = asyncio.create_task(typed.get(), name="keys")
                try:
                    await asyncio.wait({reading, refreshing}, return_when=asyncio.FIRST_COMPLETED)
                    if refreshing.done():
                        refreshing.result()
                    for key in keys(reading.result()):
                        self.view = self.view.press(key, len(self._sample.nodes) if self._sample else 0)
                finally:
                    reading.cancel()
                self._redraw()
        finally:
            refreshing.cancel()
            # The read must have ended before the caller closes the client.
            await asyncio.wait({refreshing})

    async def _keep_refreshing(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._refresh()
            except ApiError as error:
                self._redraw(f"cannot list the pods of NMI: {error}; trying again")

    async def _refresh(self) -> None:
        self._sample = await self._sampler.sample()
        self._redraw()

    def _redraw(self, failure: str = "") -> None:
        if self._sample is None:
            return
        problems = sum(1 for node in self._sample.nodes if node.problem)
        # Each NMI that could not be read has a line of its own below the table.
        rows = max(1, self._height() - OTHER_LINES - problems)
        self._draw(render(self._sample, self.view, rows=rows, interactive=True, failure=plain(failure)))


@contextlib.contextmanager
def keyboard(descriptor: int) -> "Iterator[asyncio.Queue[bytes]]":
    """Return the queue of the bytes that are typed on a terminal, which gets its former mode back at the end."""
    loop, typed = asyncio.get_running_loop(), asyncio.Queue[bytes]()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def read() -> None:
        try:
            data = os.read(descriptor, TYPED_MAX)
        except OSError:
            data = b""
        # A closed terminal stays readable, so its callback would run without end.
        if not data:
            loop.remove_reader(descriptor)
        typed.put_nowait(data or HANGUP)

    loop.add_reader(descriptor, read)
    try:
        yield typed
    finally:
        loop.remove_reader(descriptor)
        with contextlib.suppress(termios.error):  # the terminal is closed
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def show(read: Read, console: Console, *, interval_seconds: float) -> None:
    """Show the live view on the terminal until a key quits. Raises ApiError."""
    with (
        keyboard(sys.stdin.fileno()) as typed,
        Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        view = LiveView(
            Sampler(read),
            lambda shown: live.update(shown, refresh=True),
            interval_seconds=interval_seconds,
            height=lambda: console.height,
        )
        await view.run(typed)
