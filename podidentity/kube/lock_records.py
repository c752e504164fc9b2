"""How the state of a leader lock is kept in an object of the API server: a Lease's spec, or an annotation. Pure.

The annotation on Endpoints is how client-go locked before there were Leases, and the reference (v1.8.17) still does.
What else stands in the object, of fields and of labels, is kept as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from podidentity.resources import Kind, Resource, Wire

LEADER_ANNOTATION: Final = "control-plane.alpha.kubernetes.io/leader"
UNREADABLE: Final = "(unreadable)"
"""Stands for the holder where nobody can tell who it is: held, until it has not changed for its duration."""

SECONDS_MAX: Final = 2**31 - 1
"""The API server's own limit for the duration in a Lease; a longer one in an annotation counts as none."""
COUNT_MAX: Final = 2**31 - 1
RENEWED_MAX: Final = 64
"""Characters of the time of renewal that are compared. The API's own times have 27."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """Who holds a lock; an empty *holder* is nobody. *fields* are the record's as they are stored."""

    holder: str = ""
    duration_seconds: float | None = None
    renewed: str = ""
    fields: Mapping[str, Any] | None = None


class LockFormat(Protocol):
    """One way of keeping a record in an object of `kind`."""

    kind: Kind[Any]

    def read(self, document: Document) -> Record:
        """The record in the object, whatever else its author wrote there."""

    def written(
        self, document: Document, record: Record, holder: str, seconds: int, now: datetime, *, acquire: bool
    ) -> Document:
        """The object with *record* renewed for *holder*; with *acquire* the lock changes hands by it."""


class LeaseSpec(Wire, frozen=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Resource, frozen=True):
    spec: LeaseSpec = LeaseSpec()


LEASES: Final = Kind("Lease", "leases", Lease, "coordination.k8s.io")
ENDPOINTS: Final = Kind("Endpoints", "endpoints", Resource)


class InLease:
    """In the spec of a coordination.k8s.io/v1 Lease."""

    kind = LEASES

    def read(self, document: Document) -> Record:
        return _record(document.get("spec") or {})

    def written(
        self, document: Document, record: Record, holder: str, seconds: int, now: datetime, *, acquire: bool
    ) -> Document:
        return {**document, "spec": _renewed(record, holder, seconds, now, "leaseTransitions", acquire=acquire)}


class InAnnotation:
    """In an annotation of an Endpoints object, as JSON.

    client-go v0.23 writes whole seconds there and reads decimals too. It takes the lock for renewed when the text has
    changed, so with whole seconds two renewals within one would be one.
    """

    kind = ENDPOINTS

    def read(self, document: Document) -> Record:
        text = (document["metadata"].get("annotations") or {}).get(LEADER_ANNOTATION) or ""
        if not text:
            return Record()
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return Record(UNREADABLE)
        # What is nested may be deeper than any writer of JSON goes, and client-go writes nothing that is.
        return _record({name: value for name, value in fields.items() if not isinstance(value, dict | list)})

    def written(
        self, document: Document, record: Record, holder: str, seconds: int, now: datetime, *, acquire: bool
    ) -> Document:
        fields = _renewed(record, holder, seconds, now, "leaderTransitions", acquire=acquire)
        metadata = document["metadata"]
        annotations = {
            **(metadata.get("annotations") or {}),
            LEADER_ANNOTATION: msgspec.json.encode(fields).decode(),
        }
        return {**document, "metadata": {**metadata, "annotations": annotations}}


def _record(fields: Mapping[str, Any]) -> Record:
    holder, seconds = fields.get("holderIdentity"), fields.get("leaseDurationSeconds")
    return Record(
        holder if isinstance(holder, str) else "",
        float(seconds) if isinstance(seconds, int) and 0 < seconds <= SECONDS_MAX else None,
        str(fields.get("renewTime"))[:RENEWED_MAX],
        fields,
    )


def _renewed(
    record: Record, holder: str, seconds: int, now: datetime, transitions: str, *, acquire: bool
) -> dict[str, Any]:
    # The API server refuses the time of a Lease without exactly these six decimals.
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    fields = record.fields or {}
    changed = {**fields, "holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": stamp}
    if acquire:
        told = fields.get(transitions)
        count = told if isinstance(told, int) and 0 <= told < COUNT_MAX else 0
        changed["acquireTime"] = stamp
        changed[transitions] = count + (1 if fields else 0)
    return changed
