"""The token broker: cached tokens, single flights and refreshes ahead of expiry.

A request gets a cached token, joins a running fetch, or starts one. The broker refreshes tokens that pods still use
before they expire, so that no request waits for a refresh. Of a pod, the broker uses only the key that it charges for
calls. The caller (`nmi.token_service`) decides before a request, and again after it, whether the pod may have the
token.
"""

import asyncio
import random as random_module
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from msgspec.structs import replace

from _native.ready_responses import Usage
from nmi.identity.request import TokenRequest
from nmi.tokens.cache import SOON_SECONDS, CachedToken, ObjectIds, Refusals, TokenCache
from nmi.tokens.flight import Flight, Flights, RefreshTimers, log_failed_refresh
from nmi.tokens.governor import CongestedError, Governor
from nmi.tokens.metrics import ApplicationCredentials, TokenMetrics
from nmi.tokens.source import FetchContext, FetchedToken, FetchRequest, TokenKey, TokenSource, Workload
from nmi.tokens.transfer import ReceivedTokens, packets_of, passed_tokens
from podidentity.azure.errors import AzureError, NotSent, Paused, Refused
from podidentity.azure.imds import PATIENCE_SECONDS
from podidentity.resources import AzureIdentity

LAG_WINDOW_SECONDS: Final = 60.0
"""The time after an identity became usable within which IMDS may not know it yet."""
LAG_RETRY_SECONDS: Final = 10.0
"""The time for which "Identity not found" is then retried."""

FRESHER_SECONDS: Final = 3.0
"""The age of a fetch after which requests no longer wait for it if a token with less than five minutes is available."""

IN_USE_NS: Final = 30 * 60 * 1_000_000_000
"""A token without requests for this long is not in use: its pods, and their identity, may be deleted."""

MARGIN_SECONDS: Final = 0.05
"""A waiter gets the broker's error this long before its own timeout, which could not name the cause."""


class UnsupportedTypeError(Exception):
    """No source exists for this type of identity."""


class TokenBroker:
    """Owner of the token cache, the flights and the refresh timers. Ends with aclose()."""

    def __init__(
        self,
        sources: Mapping[int, TokenSource],
        governor: Governor,
        metrics: TokenMetrics,
        *,
        caching: bool = True,
        fetch_seconds: float = 45.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        usage_clock_ns: Callable[[], int] = time.monotonic_ns,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """*sources* by the identity's type. Without *caching*, only concurrent requests share a fetch.

        *fetch_seconds*: the limit of one fetch with all its attempts, independent of its waiters' remaining time.
        *usage_clock_ns*: the clock of the ready responses' `Usage`.
        """
        self._sources = sources
        self._governor = governor
        self._metrics = metrics
        self._caching = caching
        self._fetch_seconds = fetch_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._usage_clock_ns = usage_clock_ns
        self._random = random
        self._tokens = TokenCache()
        self._received = ReceivedTokens()
        self._refusals = Refusals()
        self._object_ids = ObjectIds()
        self._flights = Flights()
        self._timers = RefreshTimers(self._refresh)
        self._application_credentials = ApplicationCredentials()
        metrics.watch(
            application_credentials=self._application_credentials,
            tokens=lambda: len(self._tokens),
            soonest_expiry=lambda: self._tokens.soonest_expiry(self._clock(), usage_clock_ns() - IN_USE_NS),
            oldest_age=lambda: self._tokens.oldest_age(self._clock(), usage_clock_ns() - IN_USE_NS),
            governor=governor,
        )

    @property
    def caching(self) -> bool:
        return self._caching

    @property
    def object_ids(self) -> Mapping[str, str]:
        """Object ids by lower-case client id, as IMDS's responses have shown them. A live, read-only view."""
        return self._object_ids.view

    def supports(self, identity: AzureIdentity) -> bool:
        return identity.spec.type in self._sources

    def key_of(self, identity: AzureIdentity, resource: str, xms_cc: str, workload: Workload | None = None) -> TokenKey:
        """Return the present cache key of a token of *identity* for *workload*.

        Raise PolicyError and UnsupportedTypeError.
        """
        source = self._source(identity)
        pod = workload.uid if source.per_pod and workload is not None else ""
        return self._tokens.shared_key(TokenKey.of(source.key(identity), resource, xms_cc, pod))

    async def token(
        self,
        identity: AzureIdentity,
        request: TokenRequest,
        starter: str,
        usable_since: float = float("-inf"),
        within: float = float("inf"),
        *,
        workload: Workload | None = None,
    ) -> CachedToken:
        """Return a token of *identity* for *request*. *starter* is the pod that the governor charges for a call.

        *workload* is the same pod, for sources that are `per_pod`.

        *usable_since*, by the broker's clock, is when the identity became usable for the pod: earlier refusals do not
        count, and for a time after it IMDS's "Identity not found" is retried. *within*: the remaining seconds of the
        request; at their end the broker raises the state of the fetch with the time of the next attempt. The caller
        may be cancelled: the fetch continues for the others. Raise AzureError, CongestedError, PolicyError and
        UnsupportedTypeError.
        """
        source = self._source(identity)
        source.check(identity)
        key = self.key_of(identity, request.resource, request.xms_cc, workload)
        wanted = FetchRequest(key, identity, request.force_refresh, workload if key.pod else None)
        cached: CachedToken | None = None
        if self._caching and not request.force_refresh:
            now = self._clock()
            cached = self._tokens.find(key, now)
            if cached is None:
                wanted, cached = self._use_received(source, wanted, now)
            # A token with less than five minutes left is served without a new fetch until refresh_at, which a failed
            # fetch postpones: else each request would repeat the fetch that has just failed.
            if cached is not None and (cached.left(now) > SOON_SECONDS or now < cached.refresh_at):
                return self._hit(cached, wanted, now)
            refusal = self._refusals.find(key.lasting, now, usable_since)
            if refusal is not None and cached is None:
                raise refusal
        elif request.force_refresh:
            # The client asks for a fresh token, so the predecessor's is not used for a later request either.
            self._received.take(key, self._clock())
        self._metrics.misses += 1
        flight = self._flights.find(wanted) or self._launch(
            wanted, usable_since, background=cached is not None, patience=within
        )
        if cached is not None:
            return await self._fresher(flight, starter, cached, within)
        # Not counted as a use: a token that is requested only once needs no refresh.
        try:
            return await self._result(flight, starter, within)
        except (AzureError, CongestedError) as error:
            # A changed Secret leaves a token behind that is still valid.
            before = self._tokens.predecessor(key, self._clock())
            if before is None or request.force_refresh or isinstance(error, Refused):
                raise
            self._metrics.stale_served += 1
            return before

    def _source(self, identity: AzureIdentity) -> TokenSource:
        """Return the source of the identity's type. Raise UnsupportedTypeError."""
        source = self._sources.get(identity.spec.type)
        if source is None:
            raise UnsupportedTypeError
        return source

    def _hit(self, cached: CachedToken, request: FetchRequest, now: float) -> CachedToken:
        self._metrics.hits += 1
        if cached.left(now) <= SOON_SECONDS:
            self._metrics.stale_served += 1
        self._tokens.use(request.key, request.namespace)
        if now >= cached.refresh_at and self._flights.find(request) is None:
            self._metrics.refreshes += 1
            self._launch(request, float("-inf"), background=True)
        return cached

    async def _result(self, flight: Flight, starter: str, within: float) -> CachedToken:
        """Return the result of *flight*. Raise its present state after *within* seconds."""
        limit = asyncio.timeout(max(0.0, within - MARGIN_SECONDS) if within < float("inf") else None)
        try:
            async with limit:
                return await flight.wait(starter, self._flights.drop)
        except TimeoutError:
            # The flight itself may have ended with a TimeoutError.
            if not limit.expired():
                raise
            raise flight.timeout_error() from None

    async def _fresher(self, flight: Flight, starter: str, cached: CachedToken, within: float) -> CachedToken:
        """Return the result of *flight*, or *cached*, which is about to expire, if the flight takes too long."""
        try:
            # By the age of the fetch: requests that come one after the other do not each wait for it again.
            patience = FRESHER_SECONDS - (self._clock() - flight.begun)
            return await self._result(flight, starter, min(within, max(patience, MARGIN_SECONDS)))
        except (AzureError, CongestedError):
            if cached.left(self._clock()) <= 0.0:
                raise
            self._metrics.stale_served += 1
            return cached

    def forget_pod(self, uid: str) -> None:
        """Drop the tokens and flights of a removed pod that are for this pod only."""
        if not uid:
            return  # the value of keys that all pods share
        for key in self._tokens.of_pod(uid):
            self._tokens.forget(key)
            self._timers.cancel(key)
        self._received.forget_pod(uid)
        self._flights.cancel_pod(uid)

    # Between two NMIs of one node.

    def tokens_to_pass(self) -> Iterator[bytes]:
        """Return packets with the tokens that a successor can use, the most recently used first."""
        return packets_of(passed_tokens(self._tokens, self._object_ids, self._clock()))

    def receive_tokens(self, packets: Iterable[bytes]) -> tuple[int, int]:
        """Store the tokens of another NMI's *packets* for requests with their keys, in place of earlier ones.

        Return the number of stored tokens, and of refused ones.
        """
        if not self._caching:
            return 0, 0
        # Tokens that remain from a handover that failed are older.
        self._received = ReceivedTokens()
        counts = [self._received.add(packet, self._clock()) for packet in packets]
        return sum(stored for stored, _ in counts), sum(refused for _, refused in counts)

    def _use_received(
        self, source: TokenSource, request: FetchRequest, now: float
    ) -> tuple[FetchRequest, CachedToken | None]:
        """Move the received token of *request* into the cache. Return it and the request with its key."""
        received = self._received.take(request.key, now)
        if received is None:
            return request, None
        key, fetched, refresh_in = received
        try:
            token = self._timed(fetched, key)
        except AzureError:  # by this node's clock it has expired
            return request, None
        token.refresh_in(refresh_in, now)
        if key.credential:
            source.accept(request.identity, key.credential)
        self._object_ids.learn(key.client_id, fetched.object_id, request.namespace)
        self._application_credentials.record(request.identity, request.resource)
        request = replace(request, key=key)
        self._keep(request, token)
        return request, token

    async def aclose(self) -> None:
        """Cancel every flight and timer, and wait until they have ended. Idempotent."""
        self._timers.close()
        await self._flights.aclose()
        self._governor.close()

    def state(self) -> dict[str, object]:
        """Return the state for /debug/state: JSON-able, bounded, client ids redacted."""
        now = self._clock()
        return {
            "caching": self._caching,
            "tokens_in_all": len(self._tokens),
            "tokens": self._tokens.state(now),
            "received_tokens": len(self._received),
            "flights_in_all": len(self._flights),
            "flights": self._flights.state(now),
            "refusals": len(self._refusals),
            "application_credentials": self._application_credentials.state(),
        }

    # Fetching.

    def _launch(
        self, request: FetchRequest, usable_since: float, *, background: bool, patience: float = PATIENCE_SECONDS
    ) -> Flight:
        source = self._source(request.identity)
        lag = LAG_RETRY_SECONDS if self._clock() - usable_since < LAG_WINDOW_SECONDS else 0.0

        async def fetch(flight: Flight) -> CachedToken:
            return await self._fetch(source, request, lag, flight)

        flight = Flight(
            self._governor,
            fetch,
            name=f"token of {request.identity.metadata.name}",
            namespace=request.namespace,
            background=background,
            begun=self._clock(),
            may_drift=lambda: self._flights.let_drift(request.namespace),
            patience=patience,
        )
        self._flights.add(request, flight)
        self._metrics.fetches += 1
        return flight

    async def _fetch(self, source: TokenSource, request: FetchRequest, lag: float, flight: Flight) -> CachedToken:
        begun = self._clock()
        try:
            fetched = await source.fetch(request, self._context_of(flight, lag))
            # A changed Secret gives its tokens another key; keeping the new token drops those of the old version.
            request = replace(request, key=request.key._replace(credential=fetched.credential))
            token = self._timed(fetched, request.key)
        except (AzureError, CongestedError) as error:
            self._fetch_failed(request, error)
            raise
        self._object_ids.learn(request.identity.spec.client_id, fetched.object_id, request.namespace)
        self._application_credentials.record(request.identity, request.resource)
        if not self._caching:
            return token
        present = self._tokens.find(request.key, self._clock())
        if present is not None and not request.force_refresh and present.fetched_at > begun:
            # A forced refresh ended during this fetch. It skipped IMDS's own cache, and this one may not have.
            return present
        self._keep(request, token)
        return token

    def _context_of(self, flight: Flight, lag: float) -> FetchContext:
        return FetchContext(
            timeout_seconds=self._fetch_seconds,
            lag_seconds=lag,
            call_permit=flight.call_permit,
            charged=flight.charged,
            observer=flight,
        )

    def _timed(self, fetched: FetchedToken, key: TokenKey) -> CachedToken:
        """Return the token with its times. Raise AzureError for an expired one."""
        before = self._tokens.peek(key)
        token = CachedToken(
            fetched,
            now=self._clock(),
            wall_now=self._wall_clock(),
            jitter=self._jitter(),
            usage=before.usage if before is not None else Usage(),
            now_ns=self._usage_clock_ns(),
        )
        if token.expires_at <= token.fetched_at:
            raise AzureError(
                "a token that has expired; if it happens again, set this node's clock", status=200, code="expired_token"
            )
        if before is not None and before.token.access_token == fetched.token.access_token:
            self._metrics.unchanged += 1
        return token

    def _fetch_failed(self, request: FetchRequest, error: AzureError | CongestedError) -> None:
        """Cache a refusal for a short time. Keep a valid token and postpone its refresh."""
        self._metrics.failures += 1
        if not self._caching:
            return
        now = self._clock()
        if isinstance(error, Refused):
            self._refusals.keep(request.key.lasting, now, error, request.namespace)
        cached = self._tokens.find(request.key, now)
        # A failed forced refresh does not move the refresh of the cached token, which others use.
        if cached is not None and not request.force_refresh:
            cached.postpone(now, self._jitter())
            self._schedule(request, cached)
            if isinstance(error, NotSent | Paused):
                return  # the breaker or the governor has logged it, once for all tokens
            log_failed_refresh(request, error, cached.left(now))

    # The cache and its refreshes.

    def _keep(self, request: FetchRequest, token: CachedToken) -> None:
        self._refusals.forget(request.key.lasting)
        for key in self._tokens.keep(request.key, token, request.namespace):
            self._timers.cancel(key)
        # The client forced this fetch only, so the refresh ahead of expiry may use IMDS's own cache.
        self._schedule(replace(request, force_refresh=False), token)

    def _schedule(self, request: FetchRequest, cached: CachedToken) -> None:
        self._timers.schedule(request, cached.refresh_at - self._clock())

    def _refresh(self, request: FetchRequest) -> None:
        """Refresh the token if it was used since the last fetch; else let it expire."""
        now = self._clock()
        cached = self._tokens.peek(request.key)
        if cached is None:
            return
        if cached.left(now) <= 0.0:
            self._tokens.forget(request.key)
        elif cached.used:
            if self._flights.find(request) is None:
                self._metrics.refreshes += 1
                self._launch(request, float("-inf"), background=True)
        else:
            # The timer then removes the expired token, which no request looks up.
            self._timers.schedule(request, cached.left(now))

    def _jitter(self) -> float:
        return 0.9 + 0.2 * self._random()
