"""Rates between two reads of one NMI's metrics. Pure: the caller states the times."""

from dataclasses import dataclass
from typing import Final

from podidctl.top.counters import Counters

SHORTEST_SECONDS: Final = 0.5
"""NMI renders its metrics at most once a second: rates over a shorter time would be of one rendered page."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of one NMI at a time of the caller's monotonic clock, in seconds."""

    pod: str
    uid: str
    at: float
    counters: Counters


@dataclass(frozen=True, slots=True)
class Rates:
    """Events a second; None if the interval has no two comparable reads."""

    requests: float | None = None
    refusals: float | None = None
    imds_calls: float | None = None


def rates(before: Reading | None, after: Reading) -> Rates:
    """Return the rates between two reads. They are None for another pod, a restarted NMI and an interval that is too
    short.
    """
    if before is None or before.uid != after.uid or (seconds := after.at - before.at) < SHORTEST_SECONDS:
        return Rates()
    old, new = before.counters, after.counters
    pairs = ((old.requests, new.requests), (old.refused, new.refused), (old.imds_calls, new.imds_calls))
    if any(earlier is not None and later is not None and later < earlier for earlier, later in pairs):
        return Rates()  # NMI has restarted in its pod
    return Rates(*(_rate(*pair, seconds) for pair in pairs))


def _rate(old: float | None, new: float | None, seconds: float) -> float | None:
    return None if old is None or new is None else (new - old) / seconds
