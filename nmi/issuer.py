"""From a peer's address and a request to a token or a refusal: the one place where deciding and fetching meet.

One budget covers everything: finding the pod, holding for an assignment, asking Azure. What was decided before an await
is not trusted after it: the record's generation is captured with the decision and compared before anything is handed
out, and where it has moved on the decision is made anew. Knows no HTTP and no status codes.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from _native.answers import Usage
from _native.index import PodRecord
from nmi.identity.decide import Grant, Policy, Wait, decide
from nmi.identity.feed import GONE, Feed
from nmi.identity.measures import IdentityMeasures
from nmi.identity.pods import PodEntry
from nmi.identity.request import TokenRequest
from nmi.identity.standard import Assigned
from nmi.refusal import Reason, Refusal
from nmi.tokens.broker import LAG_RETRY_SECONDS, LAG_WINDOW_SECONDS, Broker
from nmi.tokens.cache import CachedToken
from nmi.tokens.governor import CongestedError
from nmi.tokens.source import key_of
from nmi.tokens.token import Token
from podidentity.azure.errors import AzureError, Refused, Throttled
from podidentity.azure.imds import is_identity_not_found

_UNKNOWN_ADDRESS: Final = Refusal(
    Reason.UNKNOWN_ADDRESS,
    "No pod is known at this address.",
    "no pod of this node has it alone: a host-network or finished pod, a process of the node, or a watch behind",
)
_LATE: Final = Refusal(
    Reason.UPSTREAM_UNAVAILABLE,
    "The token did not come in time; try again.",
    "Azure's endpoint took longer than --max-hold leaves it: see whether IMDS answers on this node",
)
_UNSUPPORTED: Final = Refusal(
    Reason.POLICY,
    "The type of this pod's AzureIdentity is not served by this node.",
    "only type 0 (user-assigned identity) is served: change the AzureIdentity's type, or upgrade NMI",
)
_LAGGING: Final = Refusal(
    Reason.STILL_ASSIGNING,
    "The identity of this pod has just been assigned and Azure does not know of it yet; try again.",
    "IMDS lags behind Resource Manager; if it goes on, see whether the identity is on this VM in Azure",
)


@dataclass(frozen=True, slots=True)
class Issued:
    """A token that the pod may have, as of the record's *generation*. Times are time.monotonic_ns()."""

    token: Token
    record: PodRecord
    generation: int
    expires_ns: int
    fresh_until_ns: int
    usage: Usage
    cacheable: bool
    """May become a ready answer."""
    pod: str = ""
    """`namespace/name`, for the log."""
    identity: str = ""
    """The AzureIdentity's `namespace/name`, for the log."""


@dataclass(slots=True)
class _Progress:
    """What a request gets if its budget ends now."""

    refusal: Refusal = _UNKNOWN_ADDRESS


class Issuer:
    """Stateless but for what it was given; any number of requests at once."""

    def __init__(
        self,
        feed: Feed,
        broker: Broker,
        policy: Policy,
        measures: IdentityMeasures,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*clock* must be that of *feed* and *broker*."""
        self._feed = feed
        self._broker = broker
        self._policy = policy
        self._measures = measures
        self._clock = clock

    async def issue(self, peer: str, request: TokenRequest) -> Issued | Refusal:
        """What the pod at *peer* gets for *request*, within the policy's max_hold_seconds.

        Cancelling it (the client went away) disturbs nobody else. Raises only what is a fault of ours.
        """
        arrived = asyncio.get_running_loop().time()
        progress = _Progress()
        limit = asyncio.timeout_at(arrived + self._policy.max_hold_seconds)
        try:
            async with limit:
                entry = await self._feed.entry_at(peer)
                if entry is None:
                    return _UNKNOWN_ADDRESS
                progress.refusal = _LATE
                return await self._issue(entry, peer, request, arrived, progress)
        except TimeoutError:
            if not limit.expired():
                raise
            return progress.refusal

    async def _issue(
        self, entry: PodEntry, peer: str, request: TokenRequest, arrived: float, progress: _Progress
    ) -> Issued | Refusal:
        """Decide, and do what was decided, until nothing has changed meanwhile.

        It ends: each round but the last has seen a change, and the budget is the caller's.
        """
        while self._feed.is_at(peer, entry):
            generation = entry.record.generation
            standing = await self._feed.standing(entry, peer)
            if isinstance(standing, Refusal):
                return standing
            decision = decide(standing.pod, standing.assigned, request, self._policy, self._broker.object_ids)
            match decision:
                case Refusal():
                    return decision
                case Wait():
                    progress.refusal = decision.refusal
                    if not await self._hold(entry, generation, arrived + decision.seconds):
                        return decision.refusal
                case Grant(assigned):
                    progress.refusal = _LATE
                    fetched = await self._fetch(assigned, request, entry)
                    if isinstance(fetched, Refusal):
                        return fetched
                    if self._feed.is_at(peer, entry) and entry.record.generation == generation:
                        return self._issued(fetched, assigned, request, entry, certain=standing.certain)
                    # What was fetched anew is in the cache by now; it need not be fetched twice.
                    request = replace(request, fetch_anew=request.fetch_anew and not self._broker.caching)
        return GONE

    async def _hold(self, entry: PodEntry, generation: int, until: float) -> bool:
        """Wait until the pod's record moves on from *generation*; False if it has not by *until* (the loop's time)."""
        self._measures.held += 1
        try:
            async with asyncio.timeout_at(until):
                await entry.changed(generation)
        except TimeoutError:
            return False
        finally:
            self._measures.held -= 1
        return True

    async def _fetch(self, assigned: Assigned, request: TokenRequest, entry: PodEntry) -> CachedToken | Refusal:
        if not self._broker.supports(assigned.identity):
            return _UNSUPPORTED
        try:
            return await self._broker.token(assigned.identity, request, entry.key, assigned.usable_since)
        except CongestedError as error:
            return Refusal(
                Reason.OVERLOADED,
                "Too many token requests are waiting on this node; try again.",
                "calls to IMDS are queued up to their limit: find the pods that ask for many different tokens",
                retry_after=error.retry_after,
            )
        except AzureError as error:
            recent = self._clock() - assigned.usable_since < LAG_WINDOW_SECONDS + LAG_RETRY_SECONDS
            return _LAGGING if recent and is_identity_not_found(error) else refusal_of(error)

    def _issued(
        self, fetched: CachedToken, assigned: Assigned, request: TokenRequest, entry: PodEntry, *, certain: bool
    ) -> Issued:
        """Nothing is awaited from the check of the generation to here, and from here to its admission."""
        key = key_of(assigned.identity, request.resource, request.xms_cc)
        if request.fetch_anew and self._broker.caching:
            # The ready answers of every pod that shares the identity hold the token that has just been replaced.
            for other in self._feed.entries():
                if other.serves(key):
                    other.bump()
        cacheable = certain and self._broker.caching
        if cacheable:
            entry.serve(key)
        now = self._clock()
        metadata = assigned.identity.metadata
        return Issued(
            token=fetched.token,
            record=entry.record,
            generation=entry.record.generation,
            expires_ns=int(fetched.expires_at * 1e9),
            fresh_until_ns=int(fetched.fresh_until(now) * 1e9),
            usage=fetched.usage,
            cacheable=cacheable,
            pod=entry.key,
            identity=f"{metadata.namespace}/{metadata.name}",
        )


def refusal_of(error: AzureError) -> Refusal:
    """What a pod, and the operator, are told of an upstream failure: never upstream's own sentence.

    Nor ever the word "unreachable", by which SDKs know that there is no such endpoint at all.
    """
    code = "" if "unreachable" in error.code.lower() else error.code
    facts = [code, f"correlation id {error.correlation_id}" if error.correlation_id else ""]
    told = ", ".join(fact for fact in facts if fact)
    suffix = f" ({told})" if told else ""
    if isinstance(error, Refused):
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"Azure refused a token for this identity{suffix}.",
            f"check the AzureIdentity's clientID and the resource asked for: {error.message}",
        )
    if isinstance(error, Throttled):
        return Refusal(
            Reason.UPSTREAM_THROTTLED,
            f"Azure limits token requests of this node at the moment; try again{suffix}.",
            f"other callers on the node may use IMDS beside NMI: {error.message}",
            retry_after=error.retry_after,
        )
    return Refusal(
        Reason.UPSTREAM_UNAVAILABLE,
        f"Azure's token endpoint did not give a token; try again{suffix}.",
        f"see whether IMDS answers on this node: {error.message}",
        retry_after=error.retry_after,
    )
