"""Samples from two successive reads of all NMIs, which are the document that `podidctl top -o json` prints."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from podidctl.top.reader import Reading
from podidentity.report import ReportModel

SHORTEST_SECONDS: Final = 0.5
"""NMI renders its metrics at most once a second: rates over a shorter time would be of one rendered page."""
Read = Callable[[], Awaitable[list[Reading]]]


class NodeSample(ReportModel, frozen=True):
    """One NMI. A number is null if it is not known: `problem` states why for all of them, and without a problem NMI's
    version does not report it, or no two reads are comparable.
    """

    node: str
    pod: str
    """Namespace and name of NMI's pod."""
    problem: str = ""
    """Why NMI's metrics could not be read; empty if they could."""
    pods: int | None = None
    """Addresses of pods that NMI knows."""
    requests_per_second: float | None = None
    refusals_per_second: float | None = None
    refusals: dict[str, int] = msgspec.field(default_factory=dict)
    """Since the start of NMI, by reason, without zeros."""
    imds_calls_per_second: float | None = None
    imds_calls: int | None = None
    """Since the start of NMI."""
    tokens: int | None = None
    """Cached tokens."""
    oldest_token_seconds: float | None = None
    """Age of the oldest token in use; 0 without one."""
    next_expiry_seconds: float | None = None
    """Time to the first expiry of a token in use; null also without one."""


class Sample(ReportModel, frozen=True):
    """The document."""

    time: str
    """UTC, ISO 8601."""
    interval_seconds: float
    """The time between the two reads of each NMI."""
    nodes: list[NodeSample]


class Sampler:
    """Source of samples: keeps the former read of each NMI. Times come from the event loop."""

    def __init__(self, read: Read, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._read = read
        self._now = now
        self._before: Mapping[str, Reading] = {}
        self._at: float | None = None

    async def sample(self) -> Sample:
        """Read all NMIs and return the sample since the former call. Raises ApiError."""
        after = await self._read()
        at = asyncio.get_running_loop().time()
        interval = 0.0 if self._at is None else at - self._at
        sample = Sample(
            time=f"{self._now():%Y-%m-%dT%H:%M:%SZ}",
            interval_seconds=round(interval, 3),
            nodes=[_node_sample(reading, self._before) for reading in after],
        )
        self._before, self._at = {reading.uid: reading for reading in after if not reading.problem}, at
        return sample


def rates(before: Reading | None, after: Reading) -> Sequence[float | None]:
    """Return requests, refusals and calls to IMDS per second between two reads. They are None for another pod, a
    restarted NMI and an interval that is too short.
    """
    unknown = (None, None, None)
    if before is None or before.uid != after.uid or (seconds := after.at - before.at) < SHORTEST_SECONDS:
        return unknown
    old, new = before.counters, after.counters
    pairs = ((old.requests, new.requests), (old.refused, new.refused), (old.imds_calls, new.imds_calls))
    if any(earlier is not None and later is not None and later < earlier for earlier, later in pairs):
        return unknown  # NMI has restarted in its pod
    return tuple(None if earlier is None or later is None else (later - earlier) / seconds for earlier, later in pairs)


def _node_sample(reading: Reading, before: Mapping[str, Reading]) -> NodeSample:
    """Return the sample of one NMI. *before* has the former reads by the uid of NMI's pod."""
    if reading.problem:
        return NodeSample(node=reading.node, pod=reading.pod, problem=reading.problem)
    requests, refusals, imds_calls = rates(before.get(reading.uid), reading)
    counters = reading.counters
    return NodeSample(
        node=reading.node,
        pod=reading.pod,
        pods=_whole(counters.pods),
        requests_per_second=_rounded(requests),
        refusals_per_second=_rounded(refusals),
        refusals={reason: round(count) for reason, count in sorted(counters.refusals.items()) if count},
        imds_calls_per_second=_rounded(imds_calls),
        imds_calls=_whole(counters.imds_calls),
        tokens=_whole(counters.tokens),
        oldest_token_seconds=_rounded(counters.oldest_token_seconds),
        next_expiry_seconds=_rounded(counters.next_expiry_seconds),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
