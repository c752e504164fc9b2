"""What the token room counts: plain integers that the code beside them moves, read by a collector at each scrape.

No label takes a value that a pod can choose. The names of `imds_operations_…` are the reference's and an interface.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nmi.tokens.governor import Governor
from podidentity.azure.errors import AzureError

PREFIX: Final = "aadpodidentity_"

USER_ASSIGNED: Final = "adal_token_msi_userassignedid"
"""The reference's name of an IMDS call for a user-assigned identity."""

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: IMDS answers from its cache in milliseconds, anew in a second or so, and a try ends at ten."""


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
        self._errors = 0
        self._tokens: Callable[[], int] = lambda: 0
        self._governor: Governor | None = None
        self._duration = Histogram(
            f"{PREFIX}imds_operations_duration_seconds",
            "Seconds that one call to IMDS took.",
            ["operation_type"],
            buckets=BUCKETS,
            registry=registry,
        ).labels(USER_ASSIGNED)
        registry.register(self)

    def watch(self, *, tokens: Callable[[], int], governor: Governor) -> None:
        """Where the gauges are read from at a scrape."""
        self._tokens = tokens
        self._governor = governor

    def observe_imds(self, seconds: float, error: AzureError | None) -> None:
        """One call to IMDS for a user-assigned identity has ended: what ImdsSource's *observe* wants."""
        self._duration.observe(seconds)
        if error is not None:
            self._errors += 1

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        errors = Metric(f"{PREFIX}imds_operations_errors_count", "Calls to IMDS that brought no token.", "counter")
        errors.add_sample(errors.name, {"operation_type": USER_ASSIGNED}, self._errors)
        yield errors
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
