"""The pods that wait for one fetch. Each of its calls is charged to the one whose turn comes first."""

from collections import Counter
from typing import Protocol


class QueuedCall(Protocol):
    """The interface of a queued `nmi.tokens.fair_queue.Permit` that its waiters use."""

    def join(self, pod_key: str) -> None:
        """Wait in the queue of *pod_key* too."""

    def leave(self, pod_key: str) -> None:
        """Wait no longer in the queue of *pod_key*, unless it is the only one."""


class Waiters:
    """A multiset of pod keys. A pod that joins or leaves changes the queues of the calls that are queued."""

    def __init__(self, *pod_keys: str, otherwise: str = "") -> None:
        """*otherwise* is charged without waiters."""
        self._counts = Counter(pod_keys)
        self._otherwise = otherwise
        self.queued: dict[QueuedCall, None] = {}
        """The calls that wait for their permits: several if a fetch signs in to several tenants. Set by the permits."""

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return self._counts.total()

    @property
    def pod_keys(self) -> tuple[str, ...]:
        """The pods that may be charged, at least one, in the order in which they joined."""
        return tuple(self._counts) or (self._otherwise,)

    def join(self, pod_key: str) -> None:
        """Add one request of *pod_key*."""
        self._counts[pod_key] += 1
        if self._counts[pod_key] == 1:
            for call in self.queued:
                call.join(pod_key)

    def leave(self, pod_key: str) -> None:
        """Remove one request of *pod_key*."""
        self._counts[pod_key] -= 1
        if self._counts[pod_key]:
            return
        del self._counts[pod_key]
        for call in self.queued:
            call.leave(pod_key)


Charged = str | Waiters
"""The pod that is charged for a call, or the waiters of a shared call."""
