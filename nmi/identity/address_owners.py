"""Which pod an address belongs to, where more than one pod may claim it: the only writer of the native index.

An address answers for a pod only while exactly one live pod claims it. Two claims mean that the watch is behind: the
address answers for nobody until one of them goes, or a read from the API server settles it.
"""

import logging
from collections.abc import Callable, Iterable

from _native.index import Index
from nmi.identity.pods import PodEntry

log = logging.getLogger(__name__)


class AddressOwners:
    """Claims by address. Every change of whom an address answers for goes through `_point`."""

    def __init__(
        self,
        index: Index,
        answering: Callable[[str], None],
        *,
        claimed: Callable[[str, PodEntry], None] = lambda _address, _entry: None,
        released: Callable[[str], None] = lambda _address: None,
        changed: Callable[[str], None] = lambda _address: None,
    ) -> None:
        """*answering* is called with each address that has begun to answer for a pod.

        *claimed* is called with an address and another pod that claims it now, *released* with an address that no pod
        claims now, and *changed* with one that a pod has begun or ceased to claim, or claims now in another sandbox.
        """
        self._index = index
        self._answering = answering
        self._claimed = claimed
        self._released = released
        self._changed = changed
        self._claims: dict[str, list[PodEntry]] = {}
        self._settled: dict[str, PodEntry] = {}

    def candidates(self, address: str) -> tuple[PodEntry, ...]:
        """Every pod that claims it."""
        return tuple(self._claims.get(address, ()))

    def claim(self, addresses: Iterable[str], entry: PodEntry) -> None:
        for address in addresses:
            claims = self._claims.setdefault(address, [])
            if entry not in claims:
                claims.append(entry)
                self._claimed(address, entry)
                self._reopen(address)

    def release(self, addresses: Iterable[str], entry: PodEntry) -> None:
        for address in addresses:
            claims = self._claims.get(address)
            if claims is None or entry not in claims:
                continue
            claims.remove(entry)
            if not claims:
                del self._claims[address]
                self._released(address)
            self._changed(address)
            if self._settled.get(address) is entry or len(claims) < 2:
                self._settled.pop(address, None)
            self._point(address)

    def started_again(self, entry: PodEntry) -> None:
        """A container of the pod was started: perhaps in another sandbox, which got the address after every other."""
        for address in entry.addresses:
            if entry in self._claims.get(address, ()):
                self._reopen(address)

    def settle(self, address: str, entry: PodEntry) -> None:
        """A read has just said that *address* is *entry*'s: so it is, until another claim."""
        claims = self._claims.get(address, [])
        if entry in claims and len(claims) > 1:
            self._settled[address] = entry
            self._point(address)

    def _reopen(self, address: str) -> None:
        """What was settled before is so no longer."""
        self._changed(address)
        self._settled.pop(address, None)
        self._point(address)

    def _point(self, address: str) -> None:
        claims = self._claims.get(address, [])
        owner = claims[0] if len(claims) == 1 else self._settled.get(address)
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
                "a pod's status holds something that is no IP address and it gets no tokens: look at the pod's status",
                extra={"pod": claims[0].key if claims else ""},
            )
            return
        for other in claims:
            # Whoever decided or waits for one of them on this address must look at it again.
            other.bump()
        if owner is not None:
            self._answering(address)
