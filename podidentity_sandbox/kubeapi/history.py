"""Objects, the revision counter, and a bounded log of changes: the functions of etcd and of the watch cache.

This module does not interpret objects. A stored document is never changed: a caller that changes an object stores a new
document. Only the thread of the event loop may use it.
"""

import bisect
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from podidentity_sandbox.kubeapi.statuses import Document

Key = tuple[str, str]
"""Namespace (empty for cluster-scoped kinds) and name."""
ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]

FIRST_REVISION: Final = 100
"""Above 1: a client that resumes at revision 1 finds it too old, as with a real server that has run for a while."""

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True, eq=False)
class Item:
    """One object at one revision. The document is shared with everyone who reads: never change it."""

    document: Document
    revision: int
    _json: bytes = b""
    _bare: bytes = b""

    @property
    def json(self) -> bytes:
        """The document encoded, once however many watches and lists send it."""
        if not self._json:
            self._json = _encode(self.document)
        return self._json

    @property
    def bare(self) -> bytes:
        """The same without kind and apiVersion, as in a list of a built-in kind."""
        if not self._bare:
            self._bare = _encode({k: v for k, v in self.document.items() if k not in {"kind", "apiVersion"}})
        return self._bare


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One write. `item` is the object after it; for DELETED its last state, at the revision of the deletion."""

    type: ChangeType
    key: Key
    revision: int
    item: Item
    before: Item | None


class TooOldError(Exception):
    """The log no longer contains the requested revision; `oldest` is the first one it could serve."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"history begins at {oldest}")
        self.oldest = oldest


@dataclass(slots=True, eq=False)
class _Shelf:
    items: dict[Key, Item] = field(default_factory=dict)
    order: list[Key] = field(default_factory=list)
    log: deque[Change] = field(default_factory=deque)
    oldest: int = FIRST_REVISION
    subscribers: list[Callable[[Change], None]] = field(default_factory=list)


class History:
    """All objects by kind name and key. Of the changes of each kind the log has the last *keep* ones."""

    def __init__(self, *, keep: int = 10_000) -> None:
        self.revision = FIRST_REVISION
        self._keep = keep
        self._shelves: dict[str, _Shelf] = {}

    def get(self, kind: str, key: Key) -> Item | None:
        return self._shelf(kind).items.get(key)

    def items(self, kind: str) -> list[tuple[Key, Item]]:
        """Return the current objects of *kind*, ordered by namespace and name."""
        shelf = self._shelf(kind)
        return [(key, shelf.items[key]) for key in shelf.order]

    def items_at(self, kind: str, revision: int) -> list[tuple[Key, Item]]:
        """Return the objects of *kind* at *revision*. Raise TooOldError."""
        items = dict(self._shelf(kind).items)
        for change in reversed(self.since(kind, revision)):
            if change.before is None:
                del items[change.key]
            else:
                items[change.key] = change.before
        return sorted(items.items())

    def since(self, kind: str, revision: int) -> list[Change]:
        """Return the changes of *kind* after *revision*, oldest first. Raise TooOldError."""
        shelf = self._shelf(kind)
        if revision < shelf.oldest:
            raise TooOldError(shelf.oldest)
        first = bisect.bisect_right(shelf.log, revision, key=lambda change: change.revision)
        return list(itertools.islice(shelf.log, first, None))

    def write(self, kind: str, key: Key, document: Document) -> Item:
        """Store *document*, stamped with a new revision in its metadata. Takes ownership of it."""
        shelf = self._shelf(kind)
        self.revision += 1
        document["metadata"]["resourceVersion"] = str(self.revision)
        item = Item(document, self.revision)
        before = shelf.items.get(key)
        shelf.items[key] = item
        if before is None:
            bisect.insort(shelf.order, key)
        self._publish(shelf, Change("ADDED" if before is None else "MODIFIED", key, self.revision, item, before))
        return item

    def remove(self, kind: str, key: Key, last: Document | None = None) -> Item:
        """Take an object out; *last* replaces its last state in the event. Raise KeyError."""
        shelf = self._shelf(kind)
        before = shelf.items.pop(key)
        shelf.order.pop(bisect.bisect_left(shelf.order, key))
        self.revision += 1
        document = dict(before.document if last is None else last)
        document["metadata"] = document["metadata"] | {"resourceVersion": str(self.revision)}
        item = Item(document, self.revision)
        self._publish(shelf, Change("DELETED", key, self.revision, item, before))
        return item

    def compact(self) -> None:
        """Delete the log of all kinds: a watch can no longer resume from an earlier revision."""
        for shelf in self._shelves.values():
            shelf.log.clear()
            shelf.oldest = self.revision

    def subscribe(self, kind: str, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call *callback* at each change of *kind*, inside the write. Return a function that ends it.

        A callback must not write: it takes note, and acts from the event loop later.
        """
        subscribers = self._shelf(kind).subscribers
        subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in subscribers:
                subscribers.remove(callback)

        return unsubscribe

    def _shelf(self, kind: str) -> _Shelf:
        shelf = self._shelves.get(kind)
        if shelf is None:
            shelf = self._shelves[kind] = _Shelf()
        return shelf

    def _publish(self, shelf: _Shelf, change: Change) -> None:
        shelf.log.append(change)
        if len(shelf.log) > self._keep:
            shelf.oldest = shelf.log.popleft().revision
        for callback in tuple(shelf.subscribers):
            callback(change)
