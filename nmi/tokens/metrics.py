"""Metrics of nmi.tokens: plain integers that the code increments, read by a collector at each scrape, and the record
of applications' credentials.

No label has a value that a pod can choose, and the number of AzureIdentities is bounded. The names
`imds_operations_…` come from the Go implementation and are an interface.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nmi.tokens.breaker import Breaker, State
from nmi.tokens.governor import Governor
from podidentity.azure.errors import AzureError, Throttled
from podidentity.resources import AzureIdentity, IdentityType

PREFIX: Final = "aadpodidentity_"

SYSTEM_ASSIGNED: Final = "adal_token_msi"
USER_ASSIGNED: Final = "adal_token_msi_userassignedid"
SERVICE_PRINCIPAL: Final = "adal_token"
"""The Go implementation's names of a call: to IMDS without a selector (exempt pods only), to IMDS with one, to AAD."""
OPERATIONS: Final = (SYSTEM_ASSIGNED, USER_ASSIGNED, SERVICE_PRINCIPAL)

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: IMDS responds in milliseconds from its cache, else in about a second; an attempt ends after ten."""
WAIT_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: most calls do not wait, concurrent calls wait in the queue, and a pause of IMDS takes up to 30."""

AUDIENCE_START: Final = "api://azureadtokenexchange"
"""The start of the audience in all clouds, in lower case: the other clouds append their name."""
IDENTITIES_MAX: Final = 64
"""Identities that are recorded by name; metrics have one series for each."""
PER_NAMESPACE_MAX: Final = 8
"""Identities of one namespace, so that its users cannot prevent the record of others with few objects."""
NAME_MAX: Final = 63 + 1 + 253
"""Kubernetes' limit of namespace and name with the slash; longer texts are not names."""


class ApplicationCredentials:
    """The identities whose tokens applications use as the credential of an Entra application. Bounded in memory.

    Such an application requests a token for the audience of Entra ID's token exchange, and presents it as its client
    assertion. Entra ID accepts this from a managed identity on a VM (type 0), and refuses it from one that was itself
    obtained by an exchange (type 3, AADSTS700231). Before an identity is made federated, its owner must know whether an
    application does this. A fetch is recorded, never a request that the cache answers.
    """

    def __init__(self) -> None:
        self._tokens: Counter[str] = Counter()
        self.unrecorded = 0
        """Fetched tokens of identities that the limits exclude."""

    @property
    def tokens(self) -> Mapping[str, int]:
        """Numbers of fetched tokens by AzureIdentity (`namespace/name`). A live, read-only view."""
        return MappingProxyType(self._tokens)

    def record(self, identity: AzureIdentity, resource: str) -> None:
        """Record a fetched token of *identity* for *resource*, if it can be an application's credential."""
        # Entra ID refuses tokens of type 3 as an application's credential (AADSTS700231).
        if identity.spec.type != IdentityType.USER_ASSIGNED or not resource.lower().startswith(AUDIENCE_START):
            return
        name = "/".join(identity.key)
        if name in self._tokens or (len(name) <= NAME_MAX and self._has_room(identity.metadata.namespace)):
            self._tokens[name] += 1
        else:
            self.unrecorded += 1

    def state(self) -> dict[str, object]:
        """Return the state for /debug/state: JSON-able, at most IDENTITIES_MAX names."""
        return {"tokens": dict(self._tokens), "unrecorded": self.unrecorded}

    def _has_room(self, namespace: str) -> bool:
        ours = sum(name.startswith(f"{namespace}/") for name in self._tokens)
        return len(self._tokens) < IDENTITIES_MAX and ours < PER_NAMESPACE_MAX


class TokenMetrics:
    """Metrics of the broker and of the calls to IMDS. The constructor registers the collector."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.hits = 0
        """Requests answered from the cache."""
        self.misses = 0
        """Requests that waited for a fetch."""
        self.fetches = 0
        """Started fetches: fewer than misses if requests share a fetch."""
        self.refreshes = 0
        """Fetches started ahead of expiry."""
        self.failures = 0
        """Fetches that ended without a token."""
        self.unchanged = 0
        """Fetches that returned the cached token again."""
        self.stale_served = 0
        """Requests answered with a token of less than five minutes because no fresher one was available."""
        self._errors = dict.fromkeys(OPERATIONS, 0)
        self._throttled = dict.fromkeys(OPERATIONS, 0)
        self._tokens: Callable[[], int] = lambda: 0
        self._soonest_expiry: Callable[[], float] = lambda: math.inf
        self._oldest_age: Callable[[], float] = lambda: 0.0
        self._governor: Governor | None = None
        self._application_credentials = ApplicationCredentials()
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
            "Seconds that a call to IMDS waited in the governor's queue.",
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        registry.register(self)

    def watch(
        self,
        *,
        tokens: Callable[[], int],
        soonest_expiry: Callable[[], float] = lambda: math.inf,
        oldest_age: Callable[[], float] = lambda: 0.0,
        governor: Governor,
        application_credentials: ApplicationCredentials | None = None,
    ) -> None:
        """Set the functions that a scrape reads the gauges from, and observe the waits of *governor*.

        *soonest_expiry*: the seconds to the first expiry of a token in use; infinity without one.
        *oldest_age*: the seconds since the fetch of the oldest token in use; 0 without one.
        """
        self._tokens = tokens
        self._soonest_expiry = soonest_expiry
        self._oldest_age = oldest_age
        self._governor = governor
        self._application_credentials = application_credentials or self._application_credentials
        governor.observe_waits(self._waits.observe)

    def observe_imds(self, named: bool, seconds: float, error: AzureError | None) -> None:
        """Record the end of a call to IMDS, which *named* an identity or not. For ImdsSource's *observe*."""
        self._observe(USER_ASSIGNED if named else SYSTEM_ASSIGNED, seconds, error)

    def observe_aad(self, seconds: float, error: AzureError | None) -> None:
        """Record the end of a sign-in."""
        self._observe(SERVICE_PRINCIPAL, seconds, error)

    def _observe(self, operation: str, seconds: float, error: AzureError | None) -> None:
        self._durations[operation].observe(seconds)
        if error is not None:
            self._errors[operation] += 1
        if isinstance(error, Throttled):
            self._throttled[operation] += 1

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        # CounterMetricFamily would append `_total`, which the Go implementation's name does not have.
        errors = Metric(f"{PREFIX}imds_operations_errors_count", "Calls that returned no token.", "counter")
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
            ("cache_hits", "Token requests answered from the node's cache, without lane_fast_answers.", self.hits),
            ("cache_misses", "Token requests that waited for a fetch.", self.misses),
            ("fetches", "Started token fetches; a shared fetch counts once.", self.fetches),
            ("refreshes", "Fetches started ahead of expiry.", self.refreshes),
            ("fetch_failures", "Fetches that returned no token.", self.failures),
            ("fetches_unchanged", "Fetches that returned the cached token again.", self.unchanged),
            ("stale_served", "Requests answered with a token of less than five minutes.", self.stale_served),
        ):
            yield CounterMetricFamily(f"{PREFIX}nmi_token_{name}", text, value=value)
        governor = self._governor
        for name, text, value in (
            ("token_cache_size", "Cached tokens.", self._tokens()),
            ("upstream_in_flight", "Calls to IMDS in flight.", governor.in_flight if governor else 0),
            ("governor_waiting", "Calls to IMDS in the governor's queue.", governor.waiting if governor else 0),
        ):
            yield GaugeMetricFamily(f"{PREFIX}nmi_{name}", text, value=value)
        yield GaugeMetricFamily(
            f"{PREFIX}nmi_token_soonest_expiry_seconds",
            "Seconds to the first expiry of a token that was requested within half an hour; +Inf without one.",
            value=self._soonest_expiry(),
        )
        yield GaugeMetricFamily(
            f"{PREFIX}nmi_token_oldest_age_seconds",
            "Seconds since the fetch of the oldest token that was requested within half an hour; 0 without one.",
            value=self._oldest_age(),
        )
        yield from _of_applications(self._application_credentials)
        if governor is not None:
            yield from _of_breaker(governor.breaker)


def _of_applications(record: ApplicationCredentials) -> Iterator[Metric]:
    tokens = CounterMetricFamily(
        f"{PREFIX}nmi_application_credential_tokens",
        "Fetched tokens of identities of type 0 for api://AzureADTokenExchange, which applications use as credentials.",
        labels=["identity"],
    )
    for identity, count in record.tokens.items():
        tokens.add_metric([identity], count)
    yield tokens
    yield CounterMetricFamily(
        f"{PREFIX}nmi_application_credential_tokens_unrecorded",
        "Such tokens of further identities than nmi_application_credential_tokens names.",
        value=record.unrecorded,
    )


def _of_breaker(breaker: Breaker) -> Iterator[Metric]:
    present = breaker.state
    state = GaugeMetricFamily(
        f"{PREFIX}nmi_imds_breaker_state",
        "1 for the present state of the circuit breaker for IMDS.",
        labels=["state"],
    )
    for possible in State:
        state.add_metric([possible.value], float(possible is present))
    yield state
    for name, text, value in (
        ("opened", "How often the circuit breaker for IMDS has opened.", breaker.opened),
        ("refused", "Calls to IMDS that the circuit breaker refused.", breaker.refused),
    ):
        yield CounterMetricFamily(f"{PREFIX}nmi_imds_breaker_{name}", text, value=value)
