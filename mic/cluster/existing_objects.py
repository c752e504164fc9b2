"""AzureAssignedIdentities by name and by node, and the watch events that MIC's own writes have overtaken. No I/O."""

from collections import defaultdict
from typing import Final

import msgspec

from mic.decisions.assignments import ExistingAssignment, Key
from podidentity.resources import AzureAssignedIdentity

REVOKED_JUST_NOW: Final = "revoked"
"""Placeholder for the deletionTimestamp between the response to MIC's DELETE and the watch event."""

VERSION_DIGITS: Final = 20
"""Digits of a resourceVersion that is compared as a number: etcd's revisions have 64 bits."""

RELEASED_MAX: Final = 20_000
"""Uids of deleted objects whose watch event has not arrived: some milliseconds' worth, unless the watch is interrupted.
"""


class ExistingObjects:
    """The existing objects, and the uids of those that MIC knows to be deleted before the watch reports it."""

    def __init__(self) -> None:
        self._by_key: dict[Key, ExistingAssignment] = {}
        self._by_node: defaultdict[str, set[Key]] = defaultdict(set)
        self._released: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: Key) -> ExistingAssignment | None:
        """Return the object with this namespace and name."""
        return self._by_key.get(key)

    def same(self, other: AzureAssignedIdentity) -> ExistingAssignment | None:
        """Return the object with the name and the uid of *other*."""
        present = self._by_key.get(other.key)
        return present if present is not None and present.object.metadata.uid == other.metadata.uid else None

    def on_node(self, node: str) -> tuple[ExistingAssignment, ...]:
        """Return the objects that name *node*."""
        return tuple(self._by_key[key] for key in self._by_node.get(node, ()))

    def is_any_on(self, node: str) -> bool:
        """Return whether any object names *node*."""
        return node in self._by_node

    def put(self, existing: ExistingAssignment) -> None:
        """Add the object."""
        key = existing.key
        self._by_key[key] = existing
        self._by_node[existing.node].add(key)

    def remove(self, existing: ExistingAssignment) -> None:
        """Remove the object."""
        self._by_key.pop(existing.key, None)
        on_node = self._by_node.get(existing.node)
        if on_node is not None:
            on_node.discard(existing.key)
            if not on_node:
                del self._by_node[existing.node]

    def released(self, uid: str) -> None:
        """Record that the object with this *uid* is deleted, until the watch reports it (`watch_deleted`)."""
        self._released[uid] = None
        if len(self._released) > RELEASED_MAX:
            del self._released[next(iter(self._released))]

    def watch_deleted(self, uid: str) -> None:
        """Record that the watch has reported the deletion."""
        self._released.pop(uid, None)

    def is_outdated(self, present: ExistingAssignment | None, new: AzureAssignedIdentity) -> bool:
        """Return whether the watch event with *new* is older than what MIC knows from its own writes. *present*: the
        object of that name."""
        if self._released and new.metadata.uid in self._released and new.metadata.uid:
            return True
        return present is not None and _is_older(present.object, new)


def revoked_version(existing: ExistingAssignment) -> ExistingAssignment:
    """Return the object as it is after the API server has accepted MIC's DELETE."""
    meta = msgspec.structs.replace(existing.object.metadata, deletion_timestamp=REVOKED_JUST_NOW)
    return ExistingAssignment(msgspec.structs.replace(existing.object, metadata=meta))


def _is_older(present: AzureAssignedIdentity, new: AzureAssignedIdentity) -> bool:
    """Return whether the watch event is older than the response to MIC's own write.

    Only versions of one object are compared, and only as whole numbers, which they are in every API server that keeps
    its objects in etcd. Any other version counts as new.
    """
    if present.metadata.uid != new.metadata.uid:
        return False
    before, now = present.metadata.resource_version, new.metadata.resource_version
    # The DELETE gives the object a new version, so an event with this one is from before.
    if before == now and present.metadata.deletion_timestamp == REVOKED_JUST_NOW:
        return True
    return all(version.isdecimal() and len(version) <= VERSION_DIGITS for version in (before, now)) and int(now) < int(
        before
    )
