"""The pods of this node by name: who is there, at which addresses, with which identities, exempt or not.

The handler of the pods' watch, and what the other watches' changes end in: each changes an entry at once, so that
nothing is decided on what was.
"""

from collections.abc import Callable, Iterator

from nmi.identity.address_owners import AddressOwners
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.container_starts import newest_running
from nmi.identity.decide import PodFacts
from nmi.identity.pods import PodEntry
from podidentity.resources import Pod

PodKey = tuple[str, str]
"""Namespace and name."""


class PodRegistry:
    """Entries; none of a pod that has finished. Pods on the host's network are known by name and have no address."""

    def __init__(
        self,
        addresses: AddressOwners,
        assigned: Callable[[PodFacts], tuple[AssignedIdentity, ...]],
        exempt: Callable[[Pod], str],
        entered: Callable[[PodEntry], None],
        left: Callable[[PodEntry], None],
        *,
        reported: Callable[[PodEntry], None] = lambda _entry: None,
        heard: Callable[[PodKey], None] = lambda _key: None,
    ) -> None:
        """*assigned* and *exempt* say what the watches have told of a pod.

        *entered* hears of each new entry, and *left* of each that is gone; *reported* is called after the watch
        brought a new state of a pod that stays, and *heard* before any word of the watch about a pod is taken in.
        """
        self._addresses = addresses
        self._assigned = assigned
        self._exempt = exempt
        self._entered = entered
        self._left = left
        self._reported = reported
        self._heard = heard
        self._entries: dict[PodKey, PodEntry] = {}
        self._by_namespace: dict[str, dict[str, PodEntry]] = {}

    def __iter__(self) -> Iterator[PodEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, namespace: str, name: str) -> PodEntry | None:
        return self._entries.get((namespace, name))

    # The watch's handler.

    def upserted(self, old: Pod | None, new: Pod) -> None:  # noqa: ARG002 - compared with the entry
        """A pod of this node is, or has become, like *new*."""
        self._heard(new.key)
        entry = self._entries.get(new.key)
        if entry is not None and entry.uid != new.metadata.uid:
            self.retire(entry)
            entry = None
        if new.finished:
            if entry is not None:
                self.retire(entry)
        elif entry is None:
            self.enter(new, confirmed=True)
        else:
            before, started = entry.addresses, newest_running(entry.pod)
            entry.update(new, self._exempt(new))
            entry.assign(self._assigned(entry.facts))
            self._addresses.release((each for each in before if each not in entry.addresses), entry)
            self._addresses.claim(entry.addresses, entry)
            if newest_running(new) > started:
                self._addresses.started_again(entry)
            self._reported(entry)

    def deleted(self, old: Pod) -> None:
        """A pod of this node is gone."""
        self._heard(old.key)
        entry = self._entries.get(old.key)
        if entry is not None and entry.uid == old.metadata.uid:
            self.retire(entry)

    # What else changes entries.

    def reassign(self, namespace: str, name: str) -> None:
        """The identities of that pod may have changed; without a *name*, of any pod of the namespace."""
        there = self._by_namespace.get(namespace, {})
        for entry in list(there.values()) if not name else [each for each in (there.get(name),) if each is not None]:
            entry.assign(self._assigned(entry.facts))

    def reexempt(self, namespace: str) -> None:
        """The exceptions of that namespace have changed."""
        for entry in list(self._by_namespace.get(namespace, {}).values()):
            entry.exempt(self._exempt(entry.pod))

    def enter(self, pod: Pod, *, confirmed: bool) -> PodEntry:
        """A new entry; *confirmed* by the watch, or only read of. There must be none of that name."""
        exempt = self._exempt(pod)
        entry = PodEntry(pod, exempt=exempt, confirmed=confirmed)
        entry.assign(self._assigned(entry.facts))
        self._entries[pod.key] = entry
        self._by_namespace.setdefault(entry.namespace, {})[entry.name] = entry
        self._addresses.claim(entry.addresses, entry)
        self._entered(entry)
        return entry

    def retire(self, entry: PodEntry) -> None:
        """The pod is gone, for good. Idempotent."""
        if self._entries.get((entry.namespace, entry.name)) is entry:
            del self._entries[entry.namespace, entry.name]
            there = self._by_namespace[entry.namespace]
            del there[entry.name]
            if not there:
                del self._by_namespace[entry.namespace]
        entry.retire()
        self._addresses.release(entry.addresses, entry)
        self._left(entry)
