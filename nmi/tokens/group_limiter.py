"""A concurrency limit in total and per group, so that one group cannot use the whole limit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nmi.tokens.fair_queue import FairQueue, Permit
from nmi.tokens.waiters import Charged


class GroupLimiter:
    """A concurrency limit with a second limit per group. In both, pods are served in the order of FairQueue.

    A group exists only while it has members: memory does not grow with the number of groups ever seen.
    """

    def __init__(self, in_total: int, per_group: int) -> None:
        self._total: FairQueue[Permit] = FairQueue(in_total)
        self._per_group = per_group
        self._groups: dict[str, FairQueue[Permit]] = {}

    @asynccontextmanager
    async def acquire(self, group: str, charged: Charged) -> AsyncIterator[None]:
        """Hold one unit of the limit for *group* on behalf of *charged*.

        The group's limit comes first: a waiter for it does not use the total limit.
        """
        queue = self._groups.setdefault(group, FairQueue(self._per_group))
        try:
            async with Permit(queue, charged), Permit(self._total, charged):
                yield
        finally:
            if not _members(queue) and self._groups.get(group) is queue:
                del self._groups[group]

    def __len__(self) -> int:
        """Return the number of holders and waiters."""
        return sum(_members(queue) for queue in self._groups.values())


def _members(queue: FairQueue[Permit]) -> int:
    return queue.waiting + queue.in_flight
