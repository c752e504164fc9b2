"""Reader of the metrics of all NMIs, through the API server's proxy to a port of a pod, and their counters.

Requires the permissions `list` on pods and `get` on `pods/proxy`. Each read is bounded in time, size and concurrency.
Metrics that this version of NMI does not have are None. The text is untrusted: only lines of known metrics are parsed.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from nmi.refusal import Reason
from podidctl.facts.kinds import Daemon
from podidctl.reading.daemons import MetricsPage, Unread, read_pages
from podidentity.kube.client import Client
from podidentity.report import plain

REQUESTS: Final = "aadpodidentity_nmi_operations_duration_seconds_count"
REFUSALS: Final = "aadpodidentity_nmi_refusals_total"
IMDS_CALLS: Final = "aadpodidentity_imds_operations_duration_seconds_count"
PODS: Final = "aadpodidentity_nmi_index_size"
TOKENS: Final = "aadpodidentity_nmi_token_cache_size"
OLDEST: Final = "aadpodidentity_nmi_token_oldest_age_seconds"
SOONEST: Final = "aadpodidentity_nmi_token_soonest_expiry_seconds"
_NAMES: Final = (REQUESTS, REFUSALS, IMDS_CALLS, PODS, TOKENS, OLDEST, SOONEST)
_REASONS: Final = frozenset(Reason)
_SIGN_INS: Final = "adal_token"
"""The label of calls to Azure AD in the metric of calls to IMDS."""


class UnreadableMetricsError(ValueError):
    """The text is not that of NMI's metrics."""


@dataclass(frozen=True, slots=True)
class Counters:
    """One read of an NMI's metrics."""

    requests: float | None = None
    refusals: Mapping[str, float] = field(default_factory=dict)
    """By reason."""
    imds_calls: float | None = None
    pods: float | None = None
    tokens: float | None = None
    oldest_token_seconds: float | None = None
    next_expiry_seconds: float | None = None
    """None also without a token in use."""

    @property
    def refused(self) -> float | None:
        """The sum of the refusals; None if NMI does not count them."""
        return sum(self.refusals.values()) if self.refusals else None


@dataclass(frozen=True, slots=True)
class Reading:
    """One read of one NMI."""

    node: str
    pod: str
    uid: str = ""
    at: float = 0.0
    """The time of the read, by the caller's monotonic clock in seconds."""
    counters: Counters = Counters()
    problem: str = ""
    """Why there are no counters; empty if there are."""


async def read_all(client: Client, clock: Callable[[], float] = time.monotonic) -> list[Reading]:
    """Return one result for each pod of NMI, in order of node and pod. Raises ApiError if the pods cannot be listed."""

    def use(daemon: Daemon, page: MetricsPage | Unread) -> Reading:
        node = daemon.spec.node_name
        if isinstance(page, Unread):
            return Reading(node, page.pod, problem=page.problem)
        try:
            return Reading(node, daemon.name, daemon.metadata.uid, clock(), parse(page.text))
        except UnreadableMetricsError as error:
            problem = plain(f"{error}; check that port {page.port} is NMI's --prometheus-port")
            return Reading(node, daemon.name, problem=problem)

    return sorted(await read_pages(client, use), key=lambda page: (page.node, page.pod))


def parse(text: str) -> Counters:
    """Return the counters in *text*. Raise UnreadableMetricsError."""
    sums: dict[str, float] = {}
    refusals: dict[str, float] = {}
    try:
        for name, labels, value in _samples(text):
            # Without a token in use, NMI reports an infinite time to the first expiry.
            if not math.isfinite(value) and name != SOONEST:
                raise UnreadableMetricsError(f"the metric {name} is {value}")
            if name == REFUSALS:
                # No text of an untrusted page gets into the table as a reason.
                reason = labels.get("reason", "")
                known = reason if reason in _REASONS else "other"
                refusals[known] = refusals.get(known, 0.0) + value
            elif name != IMDS_CALLS or labels.get("operation_type") != _SIGN_INS:
                sums[name] = sums.get(name, 0.0) + value
    except (ValueError, KeyError, IndexError, ArithmeticError) as error:
        raise UnreadableMetricsError(f"the metrics cannot be parsed: {error}") from error
    if not sums:
        raise UnreadableMetricsError("the page has no metric of NMI")
    if not all(map(math.isfinite, (value for name, value in sums.items() if name != SOONEST))):
        raise UnreadableMetricsError("the sum of a metric is not a finite number")
    soonest = sums.get(SOONEST, math.inf)
    return Counters(
        requests=sums.get(REQUESTS),
        refusals=refusals,
        imds_calls=sums.get(IMDS_CALLS),
        pods=sums.get(PODS),
        tokens=sums.get(TOKENS),
        oldest_token_seconds=sums.get(OLDEST),
        next_expiry_seconds=soonest if math.isfinite(soonest) else None,
    )


def _samples(text: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    """Return name, labels and value of the known metrics."""
    metric_lines = "".join(f"{line}\n" for line in text.split("\n") if line.startswith(_NAMES))
    for family in text_string_to_metric_families(metric_lines):
        for sample in family.samples:
            if sample.name in _NAMES:
                yield sample.name, sample.labels, float(sample.value)
