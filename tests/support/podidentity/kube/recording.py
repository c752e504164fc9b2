"""A handler that records its calls as text and lets a test wait for them."""

from contextlib import suppress
from typing import Generic, TypeVar

from podidentity.resources import Resource
from tests.support.waiting import until

T = TypeVar("T", bound=Resource)


class Recorder(Generic[T]):
    """`lines` reads like `+name 7`, `+name 7->8`, `-name 8`; without versions `+name`, `~name`, `-name`."""

    def __init__(self, *, versions: bool = True) -> None:
        self._versions = versions
        self.lines: list[str] = []

    def upserted(self, old: T | None, new: T) -> None:
        if not self._versions:
            self.lines.append(f"{'~' if old is not None else '+'}{new.metadata.name}")
            return
        before = f"{old.metadata.resource_version}->" if old is not None else ""
        self.lines.append(f"+{new.metadata.name} {before}{new.metadata.resource_version}")

    def deleted(self, old: T) -> None:
        self.lines.append(f"-{old.metadata.name}" + (f" {old.metadata.resource_version}" if self._versions else ""))

    async def received(self, *lines: str) -> None:
        """Wait until as many lines are recorded, and check that they equal *lines*."""
        with suppress(AssertionError):
            await until(lambda: len(self.lines) >= len(lines))
        assert self.lines == list(lines)
