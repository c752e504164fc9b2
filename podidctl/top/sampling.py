"""Samples from two successive reads of all NMIs. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from podidctl.reading.daemons import Unread
from podidctl.top.counters import Counters
from podidctl.top.rates import Reading, rates
from podidctl.top.reader import NodeReading
from podidctl.top.schema import NodeSample, Sample


def make_sample(
    before: Mapping[str, Reading], after: Sequence[NodeReading], *, interval_seconds: float, now: datetime
) -> Sample:
    """Return the sample at the wall clock time *now*. *before* has the former reads by the uid of NMI's pod."""
    return Sample(
        time=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        interval_seconds=round(interval_seconds, 3),
        nodes=[_node(each, before) for each in after],
    )


def _node(found: NodeReading, before: Mapping[str, Reading]) -> NodeSample:
    result = found.result
    if isinstance(result, Unread):
        return NodeSample(node=found.node, pod=result.pod, problem=result.problem)
    per_second, counters = rates(before.get(result.uid), result), result.counters
    return NodeSample(
        node=found.node,
        pod=result.pod,
        pods=_whole(counters.pods),
        requests_per_second=_rounded(per_second.requests),
        refusals_per_second=_rounded(per_second.refusals),
        refusals=_refusals(counters),
        imds_calls_per_second=_rounded(per_second.imds_calls),
        imds_calls=_whole(counters.imds_calls),
        tokens=_whole(counters.tokens),
        oldest_token_seconds=_rounded(counters.oldest_token_seconds),
        next_expiry_seconds=_rounded(counters.next_expiry_seconds),
    )


def _refusals(counters: Counters) -> dict[str, int]:
    return {reason: round(count) for reason, count in sorted(counters.refusals.items()) if count}


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
