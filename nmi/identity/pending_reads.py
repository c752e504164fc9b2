"""Reads that the watch, or the node's own network, has overtaken while they were on their way.

The answer to a read may be older than what has become known since it was sent. So nothing about an address or a pod
follows from a read during which either has changed.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class PendingRead:
    """One read on its way."""

    def __init__(self) -> None:
        self._changed: set[Hashable] = set()

    def note(self, subject: Hashable) -> None:
        self._changed.add(subject)

    def is_outdated(self, *subjects: Hashable) -> bool:
        """Whether one of *subjects* has changed since the read was sent."""
        return not self._changed.isdisjoint(subjects)


class PendingReads:
    """The reads on their way. Subjects are addresses (strings) and the keys of pods (pairs)."""

    def __init__(self) -> None:
        self._reads: set[PendingRead] = set()

    @contextmanager
    def read(self) -> Iterator[PendingRead]:
        """From the sending of a read to the use of its answer."""
        read = PendingRead()
        self._reads.add(read)
        try:
            yield read
        finally:
            self._reads.discard(read)

    def changed(self, subject: Hashable) -> None:
        """Something has become known about *subject*."""
        for read in self._reads:
            read.note(subject)
