"""Reads in flight, and the changes that NMI has learned of since each of them was sent.

The response to a read may be older than a watch event or a netlink report that arrived after the read was sent. Nothing
about an address or a pod follows from a read during which either has changed.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class PendingRead:
    """One read in flight."""

    def __init__(self) -> None:
        self._changed: set[Hashable] = set()

    def note(self, subject: Hashable) -> None:
        self._changed.add(subject)

    def is_outdated(self, *subjects: Hashable) -> bool:
        """Return whether one of *subjects* has changed since the read was sent."""
        return not self._changed.isdisjoint(subjects)


class PendingReads:
    """All reads in flight. Subjects are addresses (strings) and keys of pods (pairs)."""

    def __init__(self) -> None:
        self._reads: set[PendingRead] = set()

    @contextmanager
    def read(self) -> Iterator[PendingRead]:
        """Track a read from its sending to the use of its response."""
        read = PendingRead()
        self._reads.add(read)
        try:
            yield read
        finally:
            self._reads.discard(read)

    def changed(self, subject: Hashable) -> None:
        """Record a change of *subject* for every read in flight."""
        for read in self._reads:
            read.note(subject)
