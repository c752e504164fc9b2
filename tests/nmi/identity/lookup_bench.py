"""A lookup wait without a cluster, in virtual time."""

import asyncio

from nmi.identity.lookup_wait import LookupWait
from nmi.identity.pods import PodEntry
from nmi.refusal import Refusal
from tests.support.nmi_objects import ADDRESS
from tests.virtual_time import now, settle


class LookupBench:
    """A lookup wait on a dictionary, and its reads."""

    def __init__(self) -> None:
        self.entries: dict[str, PodEntry] = {}
        self.found_by_read: dict[str, PodEntry] = {}
        self.reads: list[tuple[float, str]] = []
        self.crossed = 0
        """The number of next reads whose responses arrive too late."""
        self.waits = LookupWait(
            lambda address: self.entries[address].record if address in self.entries else None, self.read, clock=now
        )

    async def read(self, address: str) -> bool:
        self.reads.append((now(), address))
        if address in self.found_by_read:
            self.arrive(address, self.found_by_read[address])
        self.crossed -= 1
        return self.crossed >= 0

    def arrive(self, address: str, entry: PodEntry) -> None:
        self.entries[address] = entry
        self.waits.arrived(address)

    async def find(self, address: str = ADDRESS) -> PodEntry | Refusal | None:
        found = await self.waits.find(address)
        if found is None or isinstance(found, Refusal):
            return found
        assert isinstance(found.owner, PodEntry)
        return found.owner

    async def waiting(self, address: str, requests: int) -> list[asyncio.Task[PodEntry | Refusal | None]]:
        """Return *requests* of *address* that wait."""
        tasks = [asyncio.create_task(self.find(address)) for _ in range(requests)]
        await settle()
        return tasks
