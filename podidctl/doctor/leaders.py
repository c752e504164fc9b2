"""Checks of the leader locks: one MIC leads, and no MIC of the Go implementation writes at the same time. Pure."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import Locks
from podidctl.printing import listed
from podidentity.kube.lease import REFERENCE_SECONDS
from podidentity.kube.lock_records import LockRecord

GRACE_SECONDS = 60.0
"""Added to a lock's duration, because clocks differ between machines and the leader may be changing."""


def check_leaders(locks: Sequence[Locks], now: datetime, *, needed: bool) -> Iterator[Finding]:
    """Report the holder of each lock; *needed* says that a leader is required."""
    if len(locks) > 1:
        names = listed(f"{each.namespace}/{each.name}" for each in locks)
        says = f"MICs use locks of different names and therefore write at the same time: {names}"
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
        says = f"{endpoints} holds the Go implementation's lock (Endpoints {about}) while {lease} holds the Lease"
        return make_finding(
            "leader", Level.PROBLEM, says, "scale one of the two MICs to 0: they revert each other's changes"
        )
    if lease:
        return make_finding(
            "leader",
            Level.OK,
            f"{lease} holds Lease {about}{' and the lock of the Go implementation' if endpoints else ''}",
        )
    if endpoints:
        says = f"{endpoints} holds Endpoints {about} and the Lease has no holder: the Go implementation's MIC leads"
        return make_finding("leader", Level.OK, says)
    if not needed:
        return make_finding("leader", Level.OK, f"{about} has no holder, which is correct in managed mode")
    last = locks.lease.holder if locks.lease is not None and locks.lease.holder else ""
    former = f"; the last holder was {last}" if last else ""
    return make_finding(
        "leader",
        Level.PROBLEM,
        f"no MIC leads: neither Lease nor Endpoints {about} is held{former}",
        "check that MIC runs, that it uses this lock name, and its log: without a leader nothing is assigned",
    )


def _holder(record: LockRecord | None, now: datetime) -> str:
    """Return the current holder, or an empty string."""
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
