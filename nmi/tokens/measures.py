"""What the token room counts: plain integers that the code beside them moves, read by a collector at each scrape.

No label takes a value that a pod can choose. The names of `imds_operations_…` are the reference's and an interface.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nmi.tokens.breaker import Breaker, State
from nmi.tokens.governor import Governor
from podidentity.azure.errors import AzureError, Throttled

PREFIX: Final = "aadpodidentity_"

SYSTEM_ASSIGNED: Final = "adal_token_msi"
USER_ASSIGNED: Final = "adal_token_msi_userassignedid"
SERVICE_PRINCIPAL: Final = "adal_token"
"""The reference's names of a call: to IMDS without a selector (exempt pods only), to IMDS with one, to AAD."""
OPERATIONS: Final = (SYSTEM_ASSIGNED, USER_ASSIGNED, SERVICE_PRINCIPAL)

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: IMDS answers from its cache in milliseconds, anew in a second or so, and a try ends at ten."""


WAIT_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: most calls wait for nothing, a flood's for their turn, and a pause that IMDS asks for lasts up to thirty."""


class TokenMeasures:
    """Counters of the broker and calls to IMDS; registers itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.hits = 0
        """Requests answered from the cache."""
        self.misses = 0
        """Requests that had to wait for a fetch."""
        self.fetches = 0
        """Fetches begun: fewer than misses when requests share one."""
        self.refreshes = 0
        """Fetches begun ahead of need."""
        self.failures = 0
        """Fetches that ended without a token."""
        self.unchanged = 0
        """Fetches that brought the token that was there already."""
        self.stale_served = 0
        """Requests answered with a token that had under five minutes left, for want of a fresher one."""
        self._errors = dict.fromkeys(OPERATIONS, 0)
        self._throttled = dict.fromkeys(OPERATIONS, 0)
        self._tokens: Callable[[], int] = lambda: 0
        self._soonest_expiry: Callable[[], float] = lambda: math.inf
        self._governor: Governor | None = None
        durations = Histogram(
            f"{PREFIX}imds_operations_duration_seconds",
            "Seconds that one call to IMDS, or to Azure AD, took.",
            ["operation_type"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._durations = {operation: durations.labels(operation) for operation in OPERATIONS}
        self._waits = Histogram(
            f"{PREFIX}nmi_governor_wait_seconds",
            "Seconds that a call to IMDS waited for its turn.",
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        registry.register(self)

    def watch(
        self,
        *,
        tokens: Callable[[], int],
        soonest_expiry: Callable[[], float] = lambda: math.inf,
        governor: Governor,
    ) -> None:
        """Where the gauges are read from at a scrape, and the governor whose waits are observed.

        *soonest_expiry*: the seconds left to the token in use which expires first; infinitely many without one.
        """
        self._tokens = tokens
        self._soonest_expiry = soonest_expiry
        self._governor = governor
        governor.observe_waits(self._waits.observe)

    def observe_imds(self, named: bool, seconds: float, error: AzureError | None) -> None:
        """One call to IMDS has ended, which *named* an identity or not: what ImdsSource's *observe* wants."""
        self._observe(USER_ASSIGNED if named else SYSTEM_ASSIGNED, seconds, error)

    def observe_aad(self, seconds: float, error: AzureError | None) -> None:
        """One call to Azure AD for a service principal has ended."""
        self._observe(SERVICE_PRINCIPAL, seconds, error)

    def _observe(self, operation: str, seconds: float, error: AzureError | None) -> None:
        self._durations[operation].observe(seconds)
        if error is not None:
            self._errors[operation] += 1
        if isinstance(error, Throttled):
            self._throttled[operation] += 1

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        errors = Metric(f"{PREFIX}imds_operations_errors_count", "Calls that brought no token.", "counter")
        for operation, count in self._errors.items():
            errors.add_sample(errors.name, {"operation_type": operation}, count)
        yield errors
        throttled = CounterMetricFamily(
            f"{PREFIX}nmi_upstream_throttled",
            "Calls that IMDS, or Azure AD, answered with 429: too many.",
            labels=["operation_type"],
        )
        for operation, count in self._throttled.items():
            throttled.add_metric([operation], count)
        yield throttled
        for name, text, value in (
            ("cache_hits", "Token requests answered from the node's cache, beside lane_fast_answers.", self.hits),
            ("cache_misses", "Token requests that waited for a fetch.", self.misses),
            ("fetches", "Fetches of a token begun; shared ones count once.", self.fetches),
            ("refreshes", "Fetches begun ahead of expiry.", self.refreshes),
            ("fetch_failures", "Fetches that brought no token.", self.failures),
            ("fetches_unchanged", "Fetches that brought the token already there.", self.unchanged),
            ("stale_served", "Requests answered with a token of under five minutes' life.", self.stale_served),
        ):
            yield CounterMetricFamily(f"{PREFIX}nmi_token_{name}", text, value=value)
        governor = self._governor
        for name, text, value in (
            ("token_cache_size", "Tokens kept.", self._tokens()),
            ("upstream_in_flight", "Calls to IMDS in the air.", governor.in_flight if governor else 0),
            ("governor_waiting", "Calls to IMDS that wait for their turn.", governor.waiting if governor else 0),
        ):
            yield GaugeMetricFamily(f"{PREFIX}nmi_{name}", text, value=value)
        yield GaugeMetricFamily(
            f"{PREFIX}nmi_token_soonest_expiry_seconds",
            "Seconds left to the token that expires first of those asked for within half an hour; +Inf without one.",
            value=self._soonest_expiry(),
        )
        if governor is not None:
            yield from _of_breaker(governor.breaker)


def _of_breaker(breaker: Breaker) -> Iterator[Metric]:
    present = breaker.state
    state = GaugeMetricFamily(
        f"{PREFIX}nmi_imds_breaker_state",
        "1 for the state that the circuit breaker before IMDS is in.",
        labels=["state"],
    )
    for each in State:
        state.add_metric([each.value], float(each is present))
    yield state
    for name, text, value in (
        ("opened", "How often calls to IMDS have been shut off because it failed.", breaker.opened),
        ("refused", "Calls to IMDS that were therefore not made.", breaker.refused),
    ):
        yield CounterMetricFamily(f"{PREFIX}nmi_imds_breaker_{name}", text, value=value)
