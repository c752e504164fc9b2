"""State of a leader lock in an object of the API server: a Lease's spec, or an annotation. Pure.

client-go used the annotation on Endpoints before Leases existed, and the Go implementation (v1.8.17) still does. All
other fields and labels of the object are preserved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from podidentity.resources import Kind, Resource, Wire

LEADER_ANNOTATION: Final = "control-plane.alpha.kubernetes.io/leader"
UNREADABLE: Final = "(unreadable)"
"""Holder of an unreadable lock. It counts as held until it has not changed for its duration."""

SECONDS_MAX: Final = 2**31 - 1
"""The API server's limit for the duration of a Lease; a longer one in an annotation is ignored."""
COUNT_MAX: Final = 2**31 - 1
RENEWED_MAX: Final = 64
"""Maximum length of the renewal time that is compared. The API's own times have 27 characters."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LockRecord:
    """Holder of a lock; *holder* is empty if there is none. *fields* are the stored fields."""

    holder: str = ""
    duration_seconds: float | None = None
    renewed: str = ""
    fields: Mapping[str, Any] | None = None


class LockFormat(Protocol):
    """A format of a lock record in an object of `kind`."""

    kind: Kind[Any]

    def read(self, document: Document) -> LockRecord:
        """Return the record in the object, and ignore other fields that its author wrote there."""

    def written(
        self, document: Document, record: LockRecord, holder: str, seconds: int, now: datetime, *, acquire: bool
    ) -> Document:
        """Return the object with *record* renewed for *holder*; with *acquire* the holder changes."""


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


class LeaseFormat:
    """Record in the spec of a coordination.k8s.io/v1 Lease."""

    kind = LEASES

    def read(self, document: Document) -> LockRecord:
        return _lock_record(document.get("spec") or {})

    def written(
        self, document: Document, record: LockRecord, holder: str, seconds: int, now: datetime, *, acquire: bool
    ) -> Document:
        return {**document, "spec": _renewed_fields(record, holder, seconds, now, "leaseTransitions", acquire=acquire)}


class AnnotationFormat:
    """Record in an annotation of an Endpoints object, as JSON.

    client-go v0.23 writes whole seconds there and also reads decimals. It detects a renewal by a change of the text, so
    with whole seconds two renewals in one second would look like one.
    """

    kind = ENDPOINTS

    def read(self, document: Document) -> LockRecord:
        text = (document["metadata"].get("annotations") or {}).get(LEADER_ANNOTATION) or ""
        if not text:
            return LockRecord()
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return LockRecord(UNREADABLE)
        # Nested values may be too deep for JSON encoders, and client-go writes none.
        return _lock_record({name: value for name, value in fields.items() if not isinstance(value, dict | list)})

    def written(
        self, document: Document, record: LockRecord, holder: str, seconds: int, now: datetime, *, acquire: bool
    ) -> Document:
        fields = _renewed_fields(record, holder, seconds, now, "leaderTransitions", acquire=acquire)
        metadata = document["metadata"]
        annotations = {
            **(metadata.get("annotations") or {}),
            LEADER_ANNOTATION: msgspec.json.encode(fields).decode(),
        }
        return {**document, "metadata": {**metadata, "annotations": annotations}}


def _lock_record(fields: Mapping[str, Any]) -> LockRecord:
    holder, seconds = fields.get("holderIdentity"), fields.get("leaseDurationSeconds")
    return LockRecord(
        holder if isinstance(holder, str) else "",
        float(seconds) if isinstance(seconds, int) and 0 < seconds <= SECONDS_MAX else None,
        str(fields.get("renewTime"))[:RENEWED_MAX],
        fields,
    )


def _renewed_fields(
    record: LockRecord, holder: str, seconds: int, now: datetime, transitions: str, *, acquire: bool
) -> dict[str, Any]:
    # The API server rejects the time of a Lease without exactly these six decimals.
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    fields = record.fields or {}
    changed = {**fields, "holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": stamp}
    if acquire:
        value = fields.get(transitions)
        # The API server refuses a greater number, and a lock must not be lost to what another client wrote.
        count = value if isinstance(value, int) and 0 <= value < COUNT_MAX else 0
        changed["acquireTime"] = stamp
        changed[transitions] = count + (1 if fields else 0)
    return changed
