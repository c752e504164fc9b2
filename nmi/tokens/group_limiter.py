"""A concurrency limit in total and per group, so that one group cannot use the whole limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class GroupLimiter:
    """A semaphore with a second limit per group. Within a group, waiters are served in order of arrival.

    A group exists only while it has members: memory does not grow with the number of groups ever seen.
    """

    def __init__(self, in_total: int, per_group: int) -> None:
        self._total = asyncio.Semaphore(in_total)
        self._per_group = per_group
        self._groups: dict[str, tuple[asyncio.Semaphore, list[None]]] = {}

    @asynccontextmanager
    async def acquire(self, group: str) -> AsyncIterator[None]:
        """Hold one unit of the limit for *group*.

        The group's limit comes first: a waiter for it does not use the total limit.
        """
        semaphore, members = self._groups.setdefault(group, (asyncio.Semaphore(self._per_group), []))
        members.append(None)
        try:
            async with semaphore, self._total:
                yield
        finally:
            members.pop()
            if not members:
                del self._groups[group]

    def __len__(self) -> int:
        """Return the number of holders and waiters."""
        return sum(len(members) for _, members in self._groups.values())
