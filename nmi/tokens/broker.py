"""The broker: every token that a pod of this node gets, fetched once and shared.

It answers from its cache, or joins the fetch in the air, or starts one, and fetches again ahead of expiry what pods
go on asking for, so that no request waits for a renewal. It knows nothing of pods but the key it charges their calls
to; whether a pod may have the token has been decided before and is checked again after (`nmi.issuer`).
"""

import asyncio
import logging
import random as random_module
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final, NamedTuple

from _native.answers import Usage
from nmi.identity.request import TokenRequest
from nmi.tokens.cache import (
    RESOURCE_SHOWN,
    SOON_SECONDS,
    STATE_MAX,
    CachedToken,
    ObjectIds,
    Refusals,
    TokenCache,
    told,
)
from nmi.tokens.flight import Flight
from nmi.tokens.governor import CongestedError, Governor
from nmi.tokens.measures import TokenMeasures
from nmi.tokens.source import Granted, TokenKey, TokenSource, Workload, key_of
from podidentity.azure.errors import AzureError, NotSent, Paused, Refused
from podidentity.azure.imds import PATIENCE_SECONDS
from podidentity.resources import AzureIdentity, IdentityType

log = logging.getLogger(__name__)

LAG_WINDOW_SECONDS: Final = 60.0
"""For so long after an identity became usable, IMDS may not have heard of it."""
LAG_RETRY_SECONDS: Final = 10.0
"""For so long "Identity not found" is then tried again."""

FRESHER_SECONDS: Final = 3.0
"""How old a fetch gets before requests no longer wait for it while a token lives that has under five minutes left."""


DRIFTING_MAX: Final = 32
"""Flights that go on without waiters while IMDS says 410. Dropping more of them costs their pods a new flight each."""

IN_USE_NS: Final = 30 * 60 * 1_000_000_000
"""A token that was not asked for within so long is not in use: its pods may be gone, and their identity with them."""

MARGIN_SECONDS: Final = 0.05
"""How much before its time is over a waiter is told why: its own time-out could not say."""


UNRENEWED: Final = (
    "a token could not be renewed and the present one is served on: see whether IMDS answers on this node"
)
UNRENEWED_AT_SIGN_IN: Final = (
    "a token could not be renewed and the present one is served on: see what the error names, and whether the sign-in "
    "endpoint and the API server answer this node"
)


class UnsupportedTypeError(Exception):
    """There is no source for this type of identity."""


class Ask(NamedTuple):
    """What one flight fetches."""

    key: TokenKey
    anew: bool
    identity: AzureIdentity
    resource: str
    xms_cc: str
    workload: Workload | None


class Broker:
    """Owns the cache, the flights and the timers of refreshes. Ends with aclose()."""

    def __init__(
        self,
        sources: Mapping[int, TokenSource],
        governor: Governor,
        measures: TokenMeasures,
        *,
        caching: bool = True,
        fetch_seconds: float = 45.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        usage_clock_ns: Callable[[], int] = time.monotonic_ns,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """*sources* by the identity's type. Without *caching* each request fetches, save those at the same moment.

        *fetch_seconds* is what one fetch may take with all its tries, whatever its waiters have left. *usage_clock_ns*
        is that of the ready answers' `Usage`.
        """
        self._sources = sources
        self._governor = governor
        self._measures = measures
        self._caching = caching
        self._fetch_seconds = fetch_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random
        self._tokens = TokenCache()
        self._refusals = Refusals()
        self._object_ids = ObjectIds()
        self._flights: dict[tuple[TokenKey, bool], Flight] = {}
        self._tasks: set[asyncio.Task[CachedToken]] = set()
        self._timers: dict[TokenKey, asyncio.TimerHandle] = {}
        self._closing = False
        measures.watch(
            tokens=lambda: len(self._tokens),
            soonest_expiry=lambda: self._tokens.soonest_expiry(self._clock(), usage_clock_ns() - IN_USE_NS),
            governor=governor,
        )

    @property
    def caching(self) -> bool:
        return self._caching

    @property
    def object_ids(self) -> Mapping[str, str]:
        """Object ids by lower-cased client id, as far as IMDS's answers have shown them. Live, read-only."""
        return self._object_ids.view

    def supports(self, identity: AzureIdentity) -> bool:
        return identity.spec.type in self._sources

    def key_of(self, identity: AzureIdentity, resource: str, xms_cc: str, workload: Workload | None = None) -> TokenKey:
        """Under what a token of *identity* for *workload* is kept at this moment."""
        source = self._sources.get(identity.spec.type)
        credential = source.credential(identity) if source is not None else ""
        pod = workload.uid if source is not None and source.per_pod and workload is not None else ""
        return self._tokens.known(key_of(identity, resource, xms_cc, credential, pod))

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
        """A token of *identity* for *request*; *starter* is the pod that pays for the call, if one is made.

        *workload* is that pod too, for sources that are `per_pod`.

        *usable_since*, by this broker's clock, is when the identity became usable for the pod: what was refused before
        does not count, and for a while after it IMDS's "Identity not found" is tried again. *within*: the seconds that
        the request has left; at their end it raises what is known of the fetch, with the time to ask again. May be
        cancelled: the fetch goes on for the others. Raises AzureError, CongestedError, PolicyError and
        UnsupportedTypeError.
        """
        source = self._sources.get(identity.spec.type)
        if source is None:
            raise UnsupportedTypeError
        source.check(identity)
        key = self.key_of(identity, request.resource, request.xms_cc, workload)
        ask = Ask(key, request.force_refresh, identity, request.resource, request.xms_cc, workload if key.pod else None)
        cached: CachedToken | None = None
        if self._caching and not request.force_refresh:
            now = self._clock()
            cached = self._tokens.find(key, now)
            if cached is not None and (cached.left(now) > SOON_SECONDS or now < cached.refresh_at):
                return self._hit(cached, ask, now)
            refusal = self._refusals.find(key.lasting, now, usable_since)
            if refusal is not None and cached is None:
                raise refusal
        self._measures.misses += 1
        flight = self._flying(ask) or self._launch(ask, usable_since, background=cached is not None, patience=within)
        if cached is not None:
            return await self._fresher(flight, starter, cached, within)
        # Not counted as a use: who asks once and never again needs no renewal.
        try:
            return await self._landing(flight, starter, within)
        except (AzureError, CongestedError) as error:
            # A Secret that has just changed leaves a token behind that is as good as on the day before.
            before = self._tokens.predecessor(key, self._clock())
            if before is None or request.force_refresh or isinstance(error, Refused):
                raise
            self._measures.stale_served += 1
            return before

    def _hit(self, cached: CachedToken, ask: Ask, now: float) -> CachedToken:
        self._measures.hits += 1
        if cached.left(now) <= SOON_SECONDS:
            self._measures.stale_served += 1
        cached.usage.touch()
        if now >= cached.refresh_at and self._flying(ask) is None:
            self._measures.refreshes += 1
            self._launch(ask, float("-inf"), background=True)
        return cached

    async def _landing(self, flight: Flight, starter: str, within: float) -> CachedToken:
        """What *flight* brings; *within* so many seconds, or what is known of it by then is raised."""
        limit = asyncio.timeout(max(0.0, within - MARGIN_SECONDS) if within < float("inf") else None)
        try:
            async with limit:
                return await flight.wait(starter, self._drop)
        except TimeoutError:
            if not limit.expired():
                raise
            raise flight.late() from None

    async def _fresher(self, flight: Flight, starter: str, cached: CachedToken, within: float) -> CachedToken:
        """What *flight* brings, or *cached*, which is about to expire, if it brings nothing soon."""
        try:
            patience = FRESHER_SECONDS - (self._clock() - flight.begun)
            return await self._landing(flight, starter, min(within, max(patience, MARGIN_SECONDS)))
        except (AzureError, CongestedError):
            if cached.left(self._clock()) <= 0.0:
                raise
            self._measures.stale_served += 1
            return cached

    def forget_pod(self, uid: str) -> None:
        """The pod is gone: so is every token that was its alone, and no fetch goes on for it."""
        if not uid:
            return  # as what all pods share has it
        for key in self._tokens.of_pod(uid):
            self._tokens.forget(key)
            self._forget_timer(key)
        for place, flight in list(self._flights.items()):
            if place[0].pod == uid:
                flight.task.cancel()
                del self._flights[place]

    async def aclose(self) -> None:
        """End every flight and timer, and wait until they have ended. Idempotent."""
        self._closing = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._governor.close()

    def state(self) -> dict[str, object]:
        """For the operator: JSON-able, bounded, client ids redacted."""
        now = self._clock()
        flights = [
            {
                "identity": told(key),
                "resource": key.resource[:RESOURCE_SHOWN],
                "anew": anew,
                "waiters": flight.waiters,
                "age_seconds": round(now - flight.begun),
            }
            for (key, anew), flight in islice(self._flights.items(), STATE_MAX)
        ]
        return {
            "caching": self._caching,
            "tokens_in_all": len(self._tokens),
            "tokens": self._tokens.state(now),
            "flights_in_all": len(self._flights),
            "flights": flights,
            "refusals": len(self._refusals),
        }

    # Flights.

    def _flying(self, ask: Ask) -> Flight | None:
        """The flight that *ask* may join. One that has just ended is none, though it may not have been cleared away."""
        flight = self._flights.get((ask.key.lasting, ask.anew))
        return flight if flight is not None and not flight.task.done() else None

    def _launch(self, ask: Ask, usable_since: float, *, background: bool, patience: float = PATIENCE_SECONDS) -> Flight:
        source = self._sources.get(ask.identity.spec.type)
        if source is None:
            raise UnsupportedTypeError
        lag = LAG_RETRY_SECONDS if self._clock() - usable_since < LAG_WINDOW_SECONDS else 0.0
        place = (ask.key.lasting, ask.anew)

        async def fly(flight: Flight) -> CachedToken:
            return await self._fetch(source, ask, lag, flight)

        flight = Flight(
            self._governor,
            fly,
            name=f"token of {ask.identity.metadata.name}",
            background=background,
            begun=self._clock(),
            may_drift=lambda: sum(each.drifting for each in self._flights.values()) < DRIFTING_MAX,
            patience=patience,
        )
        self._flights[place] = flight
        self._tasks.add(flight.task)
        self._measures.fetches += 1

        def landed(task: asyncio.Task[CachedToken]) -> None:
            self._tasks.discard(task)
            if self._flights.get(place) is flight:
                del self._flights[place]

        flight.task.add_done_callback(landed)
        return flight

    def _drop(self, flight: Flight) -> None:
        """Nobody waits for it and it is being cancelled: who asks now must not join it."""
        for place, other in list(self._flights.items()):
            if other is flight:
                del self._flights[place]

    async def _fetch(self, source: TokenSource, ask: Ask, lag: float, flight: Flight) -> CachedToken:
        begun = self._clock()
        try:
            granted = await source.fetch(
                ask.identity,
                ask.resource,
                xms_cc=ask.xms_cc,
                bypass_cache=ask.anew,
                within=self._fetch_seconds,
                lag_seconds=lag,
                slot=flight.slot,
                course=flight,
                workload=ask.workload,
            )
            # A Secret that has changed gives its tokens another key; those of the old version go with the keeping.
            ask = ask._replace(key=ask.key._replace(credential=granted.credential))
            fetched = self._made(granted, ask)
        except (AzureError, CongestedError) as error:
            self._failed(ask, error)
            raise
        self._object_ids.learn(ask.identity.spec.client_id, granted.object_id)
        if not self._caching:
            return fetched
        present = self._tokens.find(ask.key, self._clock())
        if present is not None and not ask.anew and present.fetched_at > begun:
            # Somebody has meanwhile had it fetched anew, past IMDS's own cache, out of which this one may be.
            return present
        self._keep(ask, fetched)
        return fetched

    def _made(self, granted: Granted, ask: Ask) -> CachedToken:
        """The token with its times. Raises AzureError for one that has expired already."""
        before = self._tokens.peek(ask.key)
        made = CachedToken(
            granted,
            now=self._clock(),
            wall_now=self._wall_clock(),
            jitter=self._jitter(),
            usage=before.usage if before is not None else Usage(),
        )
        if made.expires_at <= made.fetched_at:
            raise AzureError(
                "a token that has expired; if it happens again, set this node's clock", status=200, code="expired_token"
            )
        if before is not None and before.token.access_token == granted.token.access_token:
            self._measures.unchanged += 1
        return made

    def _failed(self, ask: Ask, error: AzureError | CongestedError) -> None:
        """Remember a refusal for a moment; leave a token that still lives where it is, to be renewed later."""
        self._measures.failures += 1
        if not self._caching:
            return
        now = self._clock()
        if isinstance(error, Refused):
            self._refusals.keep(ask.key.lasting, now, error)
        cached = self._tokens.find(ask.key, now)
        if cached is not None and not ask.anew:
            cached.postpone(now, self._jitter())
            self._schedule(ask, cached)
            if isinstance(error, NotSent | Paused):
                return  # whoever left IMDS alone has said so, once for all
            log.warning(
                UNRENEWED if ask.key.type == IdentityType.USER_ASSIGNED else UNRENEWED_AT_SIGN_IN,
                extra={
                    "identity": f"{ask.identity.metadata.namespace}/{ask.identity.metadata.name}",
                    "error": str(error),
                    "seconds": round(cached.left(now)),
                },
            )

    # The cache and its refreshes.

    def _keep(self, ask: Ask, fetched: CachedToken) -> None:
        self._refusals.forget(ask.key.lasting)
        for key in self._tokens.keep(ask.key, fetched):
            self._forget_timer(key)
        self._schedule(ask._replace(anew=False), fetched)

    def _schedule(self, ask: Ask, cached: CachedToken) -> None:
        self._forget_timer(ask.key)
        if not self._closing:
            delay = max(0.0, cached.refresh_at - self._clock())
            self._timers[ask.key] = asyncio.get_running_loop().call_later(delay, self._due, ask)

    def _forget_timer(self, key: TokenKey) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _due(self, ask: Ask) -> None:
        """The time of a refresh has come: fetch if anybody has asked since the last one, else let the token run out."""
        self._timers.pop(ask.key, None)
        now = self._clock()
        cached = self._tokens.peek(ask.key)
        if cached is None or self._closing:
            return
        if cached.left(now) <= 0.0:
            self._tokens.forget(ask.key)
        elif cached.used:
            if self._flying(ask) is None:
                self._measures.refreshes += 1
                self._launch(ask, float("-inf"), background=True)
        else:
            loop = asyncio.get_running_loop()
            self._timers[ask.key] = loop.call_later(cached.left(now), self._due, ask)

    def _jitter(self) -> float:
        return 0.9 + 0.2 * self._random()
