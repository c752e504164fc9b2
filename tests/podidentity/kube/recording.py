"""A handler that records its calls as text and lets a test wait for them."""

import asyncio
from typing import Generic, TypeVar

from podidentity.resources import Resource

T = TypeVar("T", bound=Resource)


class Recorder(Generic[T]):
    """`lines` reads like `+name 7`, `+name 7->8`, `-name 8`; without versions `+name`, `~name`, `-name`."""

    def __init__(self, *, versions: bool = True) -> None:
        self._versions = versions
        self.lines: list[str] = []
        self._waiters: list[tuple[int, asyncio.Event]] = []

    def upserted(self, old: T | None, new: T) -> None:
        if not self._versions:
            self._add(f"{'~' if old is not None else '+'}{new.metadata.name}")
            return
        before = f"{old.metadata.resource_version}->" if old is not None else ""
        self._add(f"+{new.metadata.name} {before}{new.metadata.resource_version}")

    def deleted(self, old: T) -> None:
        self._add(f"-{old.metadata.name}" + (f" {old.metadata.resource_version}" if self._versions else ""))

    def _add(self, line: str) -> None:
        self.lines.append(line)
        for wanted, event in self._waiters:
            if len(self.lines) >= wanted:
                event.set()

    async def received(self, *lines: str, seconds: float = 5.0) -> None:
        """Wait until as many lines are recorded, and check that they equal *lines*."""
        event = asyncio.Event()
        self._waiters.append((len(lines), event))
        if len(self.lines) < len(lines):
            try:
                async with asyncio.timeout(seconds):
                    await event.wait()
            except TimeoutError:
                pass
        assert self.lines == list(lines)
