"""The pod that owns each address, where several pods may report it. The only writer of the native index.

The index maps an address to a pod only while exactly one live pod has that address. Two pods with one address mean that
the watch is behind: the index maps the address to no pod until one of them is removed, or a read from the API server
settles the owner.
"""

import logging
from collections.abc import Callable, Iterable

from _native.index import Index
from nmi.identity.pods import PodEntry

log = logging.getLogger(__name__)


class AddressOwners:
    """The candidates of each address: the pods that have it. Only `_point` changes the owner in the index."""

    def __init__(
        self,
        index: Index,
        answering: Callable[[str], None],
        *,
        added: Callable[[str, PodEntry], None] = lambda _address, _entry: None,
        unused: Callable[[str], None] = lambda _address: None,
        changed: Callable[[str], None] = lambda _address: None,
    ) -> None:
        """Store the callbacks.

        *answering* is called with each address that the index begins to map to a pod. *added* is called with an address
        and a pod that has it from now on. *unused* is called with an address that no pod has any more. *changed* is
        called with an address whose candidates change, or one of whose candidates may run in a new sandbox.
        """
        self._index = index
        self._answering = answering
        self._added = added
        self._unused = unused
        self._changed = changed
        self._candidates: dict[str, list[PodEntry]] = {}
        self._settled: dict[str, PodEntry] = {}

    def candidates(self, address: str) -> tuple[PodEntry, ...]:
        """Return every pod that has *address*."""
        return tuple(self._candidates.get(address, ()))

    def add(self, addresses: Iterable[str], entry: PodEntry) -> None:
        for address in addresses:
            candidates = self._candidates.setdefault(address, [])
            if entry not in candidates:
                candidates.append(entry)
                self._added(address, entry)
                self._reopen(address)

    def remove(self, addresses: Iterable[str], entry: PodEntry) -> None:
        for address in addresses:
            candidates = self._candidates.get(address)
            if candidates is None or entry not in candidates:
                continue
            candidates.remove(entry)
            if not candidates:
                del self._candidates[address]
                self._unused(address)
            self._changed(address)
            if self._settled.get(address) is entry or len(candidates) < 2:
                self._settled.pop(address, None)
            self._point(address)

    def started_again(self, entry: PodEntry) -> None:
        """Discard the settled owner: a container of the pod started, possibly in a newer sandbox with the same
        address.
        """
        for address in entry.addresses:
            if entry in self._candidates.get(address, ()):
                self._reopen(address)

    def settle(self, address: str, entry: PodEntry) -> None:
        """Make *entry* the owner of a contested *address*, because a read has just shown it, until the next change."""
        candidates = self._candidates.get(address, [])
        if entry in candidates and len(candidates) > 1:
            self._settled[address] = entry
            self._point(address)

    def _reopen(self, address: str) -> None:
        """Discard the owner that a read settled."""
        self._changed(address)
        self._settled.pop(address, None)
        self._point(address)

    def _point(self, address: str) -> None:
        candidates = self._candidates.get(address, [])
        owner = candidates[0] if len(candidates) == 1 else self._settled.get(address)
        try:
            present = self._index.get(address)
            if owner is not None and owner.record is present:
                return
            if present is not None:
                self._index.remove(address, present)
            if owner is not None:
                self._index.put(address, owner.record)
        except ValueError:
            log.warning(
                "invalid IP address in a pod's status, the pod gets no tokens; look at the pod's status",
                extra={"pod": candidates[0].key if candidates else ""},
            )
            return
        for other in candidates:
            # Requests that wait for, or were decided on, one of the candidates must be decided again.
            other.bump()
        if owner is not None:
            self._answering(address)
