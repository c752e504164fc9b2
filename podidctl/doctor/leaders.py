"""Checks on who leads: one MIC, and not the reference beside it. Pure."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from podidctl.doctor.schema import Finding, Level, listed, make_finding
from podidctl.doctor.state import Locks
from podidentity.kube.lease import REFERENCE_SECONDS
from podidentity.kube.lock_records import Record

GRACE_SECONDS = 60.0
"""On top of a lock's duration: clocks of several machines need not agree, and a leader may just be changing."""


def check_leaders(locks: Sequence[Locks], now: datetime, *, needed: bool) -> Iterator[Finding]:
    """Who holds the lock; *needed*: somebody has to."""
    if len(locks) > 1:
        names = listed(f"{each.namespace}/{each.name}" for each in locks)
        says = f"MICs lock by different names and write beside each other: {names}"
        then = (
            "give all MICs the same --leader-election-namespace and --leader-election-name, or delete one installation"
        )
        yield make_finding("leader", Level.PROBLEM, says, then)
    for each in locks:
        yield _leader(each, now, needed=needed)


def _leader(locks: Locks, now: datetime, *, needed: bool) -> Finding:
    about = f"{locks.namespace}/{locks.name}"
    lease, endpoints = _holder(locks.lease, now), _holder(locks.endpoints, now)
    if lease and endpoints and lease != endpoints:
        says = f"{endpoints} holds the reference's lock (Endpoints {about}) beside {lease}, who holds the Lease"
        return make_finding(
            "leader", Level.PROBLEM, says, "scale one of the two MICs to 0: they undo each other's work"
        )
    if lease:
        return make_finding(
            "leader", Level.OK, f"{lease} holds Lease {about}" + (" and the reference's lock" if endpoints else "")
        )
    if endpoints:
        says = f"{endpoints} holds Endpoints {about} and nobody the Lease: the reference's MIC leads"
        return make_finding("leader", Level.OK, says)
    if not needed:
        return make_finding("leader", Level.OK, f"nobody holds {about}, as it is in managed mode")
    last = locks.lease.holder if locks.lease is not None and locks.lease.holder else ""
    said = f"; the last was {last}" if last else ""
    return make_finding(
        "leader",
        Level.PROBLEM,
        f"nobody leads: neither Lease nor Endpoints {about} is held{said}",
        "see that MIC runs, that it locks by this name, and its log: nothing is assigned meanwhile",
    )


def _holder(record: Record | None, now: datetime) -> str:
    """Who holds it at the moment, or an empty string."""
    if record is None or not record.holder:
        return ""
    try:
        renewed = datetime.fromisoformat(record.renewed)
    except ValueError:
        return record.holder
    if renewed.tzinfo is None:
        renewed = renewed.replace(tzinfo=UTC)
    lasting = timedelta(seconds=(record.duration_seconds or REFERENCE_SECONDS) + GRACE_SECONDS)
    return record.holder if now - renewed <= lasting else ""
