"""The token service: from a peer's address (or a named pod) and a request to a token or a refusal.

One time limit covers finding the pod, holding the request for an assignment, and calling Azure. A decision from before
an await is not trusted after it: the record's generation is stored with the decision and compared before the token is
returned. If it differs, the service decides again. This module does not depend on HTTP or status codes.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from nmi.error_refusals import Service, own_ids, refusal_of, refusal_of_congestion, service_of
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.cluster_cache import ClusterCache, DecisionInput
from nmi.identity.decide import Decision, DecisionPolicy, Exempt, Grant, Wait, decide
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.ownership_reads import GONE
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import TokenRequest
from nmi.refusal import UNKNOWN_ADDRESS, UNSUPPORTED_TYPE, Reason, Refusal
from nmi.tokens.broker import LAG_RETRY_SECONDS, LAG_WINDOW_SECONDS, TokenBroker
from nmi.tokens.cache import CachedToken
from nmi.tokens.governor import CongestedError
from nmi.tokens.source import Issued, PolicyError, Workload
from nmi.tokens.user_assigned import NodeIdentitySource
from podidentity.azure.errors import AzureError
from podidentity.azure.imds import RawResponse, is_identity_not_found

_UNKNOWN_NAME: Final = Refusal(
    Reason.UNKNOWN_ADDRESS,
    "No pod of that name is known on this node.",
    "find the client of /host/token on the node: its pod does not run here, has finished, or is not known yet",
)
_LATE: Final = Refusal(
    Reason.UPSTREAM_UNAVAILABLE,
    "The token did not come in time; try again.",
    "Azure's endpoint took longer than --max-hold allows, or than the client waits: check that IMDS (type 0), or "
    "Entra ID (other types), responds to this node",
)
_UNVERIFIED: Final = Refusal(
    Reason.UPSTREAM_UNAVAILABLE,
    "This pod cannot be verified now; try again.",
    "the API server took longer to confirm this pod than --max-hold allows, or than the client waits: check that it "
    "responds to this node",
    retry_after=5.0,
)
_NO_HOST_TOKENS: Final = Refusal(
    Reason.POLICY,
    "This node serves no tokens of this type of identity on /host/token.",
    "--host-token-types does not list the type of this pod's AzureIdentity",
)
_EXEMPT_HAS_NONE: Final = Refusal(
    Reason.NO_MATCHING_IDENTITY,
    "This pod is under an exception and has no identity of its own.",
    "/host/token never serves the node's own identities: send the request from the pod, or delete its exception",
)
_LAGGING: Final = Refusal(
    Reason.STILL_ASSIGNING,
    "The identity of this pod has just been assigned and Azure does not know of it yet; try again.",
    "IMDS lags behind Resource Manager; if this continues, check that the identity is attached to this VM in Azure",
)


class RequestRecord(Protocol):
    """The part of a call record that the service sets."""

    unanswered: Refusal | None
    """What the request waited for when it was cancelled, as the refusal at the end of its time limit."""
    entry: PodEntry | None
    """The pod that was found for it. Its address may have another one when it is cancelled."""


class _Attempt(msgspec.Struct):
    """One request in progress."""

    peer: str
    """The client's address, or empty if a process of the node named the pod."""
    request: TokenRequest
    arrived: float
    """The loop's time of arrival."""
    refusal: Refusal
    """The refusal if its time limit ends now."""
    held: Wait | None = None
    """The decision by which it was held last."""


class TokenService:
    """Stateless except for its dependencies; serves any number of concurrent requests."""

    def __init__(
        self,
        cluster_cache: ClusterCache,
        broker: TokenBroker,
        policy: DecisionPolicy,
        measures: IdentityMetrics,
        node_identities: NodeIdentitySource,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the dependencies. *node_identities* is for exempt pods. *clock* must be that of *cluster_cache* and
        *broker*.
        """
        self._cluster_cache = cluster_cache
        self._broker = broker
        self._policy = policy
        self._measures = measures
        self._node_identities = node_identities
        self._clock = clock

    async def issue(
        self, peer: str, request: TokenRequest, record: RequestRecord | None = None
    ) -> Issued | RawResponse | Refusal:
        """Return the response to *request* of the pod at *peer*, within the policy's max_hold_seconds.

        A RawResponse is IMDS's own, for an exempt pod; forward it unchanged and do not cache it. A cancellation (the
        client disconnected) affects no other request, and sets *record*. Raises only for bugs of NMI.
        """
        return await self._within_budget(self._cluster_cache.entry_at(peer), peer, request, UNKNOWN_ADDRESS, record)

    async def issue_for(self, namespace: str, name: str, request: TokenRequest) -> Issued | RawResponse | Refusal:
        """Return the response to a process of the node for a pod of this node that it names, also on the host's
        network.

        The caller ensures that it is a process of the node. Only types in the policy's host_token_types; never the
        node's own identities; never a ready response. Otherwise like `issue`.
        """
        # Before the lookup, so that a disabled path reveals nothing about a pod.
        if not self._policy.host_token_types:
            return _NO_HOST_TOKENS
        return await self._within_budget(self._cluster_cache.entry_named(namespace, name), "", request, _UNKNOWN_NAME)

    async def _within_budget(
        self,
        finding: Coroutine[Any, Any, PodEntry | Refusal | None],
        peer: str,
        request: TokenRequest,
        unknown: Refusal,
        record: RequestRecord | None = None,
    ) -> Issued | RawResponse | Refusal:
        """Run *finding* and all further steps within the time limit. An empty *peer*: the pod was named."""
        arrived = asyncio.get_running_loop().time()
        attempt = _Attempt(peer, request, arrived, unknown)
        limit = asyncio.timeout_at(arrived + self._policy.max_hold_seconds)
        entry: PodEntry | Refusal | None = None
        outcome: Issued | RawResponse | Refusal
        try:
            async with limit:
                entry = await finding
                if isinstance(entry, Refusal):
                    return entry
                if entry is None:
                    # A name has no ready refusal: its request does not come from the pod's address.
                    seconds = self._cluster_cache.unknown_for(peer) if peer else 0.0
                    return replace(unknown, unknown_seconds=seconds)
                attempt.refusal = _UNVERIFIED
                outcome = await self._issue(entry, attempt)
        except TimeoutError:
            if not limit.expired():
                raise
            outcome = attempt.refusal
        except asyncio.CancelledError:
            if record is not None:
                record.unanswered = attempt.refusal
                record.entry = entry if isinstance(entry, PodEntry) else None
            raise
        # A change is on its way, so the next request for it is held again instead of refused immediately.
        held = attempt.held
        if held is not None and held.in_progress and outcome is held.refusal and isinstance(entry, PodEntry):
            entry.forget_first_request(held.missing)
        return outcome

    async def _issue(self, entry: PodEntry, attempt: _Attempt) -> Issued | RawResponse | Refusal:
        """Decide and act on the decision, until nothing has changed during the action.

        The loop ends: each iteration but the last has seen a change, and the caller sets the time limit.
        """
        loop = asyncio.get_running_loop()
        while self._is_there(entry, attempt):
            # Before the await, so that a change during the read makes the decision outdated.
            generation = entry.record.generation
            decision_input = await self._cluster_cache.decision_input(entry, attempt.peer)
            if isinstance(decision_input, Refusal):
                return decision_input
            if not self._is_there(entry, attempt):
                break  # a token fetched for a removed pod would never be removed from the cache
            decision: Decision = (
                decision_input
                if isinstance(decision_input, Wait)
                else decide(
                    decision_input.pod,
                    decision_input.assigned,
                    attempt.request,
                    self._policy,
                    self._broker.object_ids,
                    now=self._clock(),
                )
            )
            outcome: Issued | RawResponse | Refusal | None
            match decision:
                case Refusal():
                    outcome = replace(decision, generation=self._lasting(decision, attempt, generation, decision_input))
                case Wait():
                    attempt.refusal, attempt.held = decision.refusal, decision
                    began = entry.first_request(decision.missing, loop.time())
                    if loop.time() < began + decision.seconds:
                        # The pod's first request may be older than this one, or younger if something has changed since:
                        # the earlier time counts.
                        until = min(began, attempt.arrived) + decision.seconds
                        changed = await self._hold(entry, generation, until)
                        outcome = None if changed else decision.refusal
                    elif decision.in_progress:
                        outcome = decision.refusal
                    else:
                        lasting = self._lasting(decision.refusal, attempt, generation, decision_input)
                        outcome = replace(decision.refusal, generation=lasting)
                case Exempt():
                    attempt.refusal = _LATE
                    outcome = await self._fetch_as_node(entry, attempt, generation, decision_input)
                case Grant(assigned):
                    attempt.refusal = _LATE
                    outcome = await self._grant(entry, assigned, attempt, generation, decision_input)
            if outcome is not None:
                return outcome
        return GONE

    def _lasting(
        self, decision: Refusal, attempt: _Attempt, generation: int, decision_input: DecisionInput | Wait
    ) -> int | None:
        """Return *generation* if the pod record determines *decision* alone, else None.

        Object ids are learned from IMDS's responses, without a new generation.
        """
        certain = isinstance(decision_input, DecisionInput) and decision_input.certain
        object_id_known = decision.reason is not Reason.UNKNOWN_OBJECT_ID
        return generation if certain and object_id_known and attempt.peer else None

    async def _grant(
        self,
        entry: PodEntry,
        assigned: AssignedIdentity,
        attempt: _Attempt,
        generation: int,
        decision_input: DecisionInput | Wait,
    ) -> Issued | Refusal | None:
        """Return the token; None if the decision of *generation* is outdated."""
        request = attempt.request
        # After the decision, because only it shows the type of the identity.
        if not attempt.peer and assigned.identity.spec.type not in self._policy.host_token_types:
            return replace(_NO_HOST_TOKENS, identity=_name_of(assigned))
        fetched = await self._fetch(assigned, request, entry, self._left(attempt))
        # The client has this token already, and a service has rejected it.
        if _is_rejected(fetched, request):
            request = replace(request, force_refresh=True)
            fetched = await self._fetch(assigned, request, entry, self._left(attempt))
        # A refusal grants nothing, so it needs no check that the decision still holds.
        if isinstance(fetched, Refusal):
            return replace(fetched, identity=_name_of(assigned)) if self._is_there(entry, attempt) else None
        if await self._still_stands(entry, attempt, generation, decision_input):
            certain = isinstance(decision_input, DecisionInput) and decision_input.certain
            return self._issued(fetched, assigned, request, entry, certain=certain and bool(attempt.peer))
        # The refreshed token is in the cache, so the next attempt need not force a refresh.
        attempt.request = replace(request, force_refresh=request.force_refresh and not self._broker.caching)
        return None

    async def _fetch_as_node(
        self, entry: PodEntry, attempt: _Attempt, generation: int, decision_input: DecisionInput | Wait
    ) -> RawResponse | Refusal | None:
        """Return IMDS's response to an exempt pod; None if it is no longer known to be exempt."""
        # A process of the node must not get the node's own identities by naming an exempt pod.
        if not attempt.peer:
            return _EXEMPT_HAS_NONE
        try:
            response = await self._node_identities.token(attempt.request, entry.key, self._left(attempt))
        except CongestedError as error:
            return refusal_of_congestion(error)
        except AzureError as error:
            return refusal_of(error, service=Service.IMDS)
        return response if await self._still_stands(entry, attempt, generation, decision_input) else None

    def _left(self, attempt: _Attempt) -> float:
        """Return the remaining seconds of the time limit."""
        return attempt.arrived + self._policy.max_hold_seconds - asyncio.get_running_loop().time()

    def _is_there(self, entry: PodEntry, attempt: _Attempt) -> bool:
        return self._cluster_cache.is_at(attempt.peer, entry) if attempt.peer else not entry.gone

    def _is_unchanged(self, entry: PodEntry, attempt: _Attempt, generation: int) -> bool:
        """Return whether the decision of *generation* still holds after an await."""
        return self._is_there(entry, attempt) and entry.record.generation == generation

    async def _still_stands(
        self, entry: PodEntry, attempt: _Attempt, generation: int, decision_input: DecisionInput | Wait
    ) -> bool:
        """Return whether the decision on *decision_input* may be applied, after the fetch for it.

        Reads that confirmed it are repeated, since an address can change its owner without a change of the record.
        Reads are shared for a second, so a fast fetch costs no further one.
        """
        attempt.refusal = _UNVERIFIED  # the fetch has ended
        if (
            self._is_unchanged(entry, attempt, generation)
            and isinstance(decision_input, DecisionInput)
            and decision_input.verified
        ):
            again = await self._cluster_cache.decision_input(entry, attempt.peer)
            if not isinstance(again, DecisionInput) or (again.pod, again.assigned) != (
                decision_input.pod,
                decision_input.assigned,
            ):
                return False
        return self._is_unchanged(entry, attempt, generation)

    async def _hold(self, entry: PodEntry, generation: int, until: float) -> bool:
        """Wait until something has changed for the pod since *generation* of its record. Return False if nothing has by
        *until* (the loop's time).
        """
        self._measures.held += 1
        try:
            return await entry.changed(generation, until)
        finally:
            self._measures.held -= 1

    async def _fetch(
        self, assigned: AssignedIdentity, request: TokenRequest, entry: PodEntry, left: float
    ) -> CachedToken | Refusal:
        if not self._broker.supports(assigned.identity):
            return UNSUPPORTED_TYPE
        try:
            return await self._broker.token(
                assigned.identity, request, entry.key, assigned.usable_since, left, workload=_workload(entry)
            )
        except PolicyError as error:
            return Refusal(Reason.POLICY, error.sentence, error.detail)
        except CongestedError as error:
            return refusal_of_congestion(error)
        except AzureError as error:
            # IMDS may know the identity some seconds after Resource Manager, which is no fault of the object.
            recent = self._clock() - assigned.usable_since < LAG_WINDOW_SECONDS + LAG_RETRY_SECONDS
            if recent and is_identity_not_found(error):
                return replace(_LAGGING, correlation=error.correlation_id)
            return refusal_of(error, own_ids(assigned.identity, request), service_of(assigned.identity))

    def _issued(
        self, fetched: CachedToken, assigned: AssignedIdentity, request: TokenRequest, entry: PodEntry, *, certain: bool
    ) -> Issued:
        """Return the issued token. There is no await between the comparison of the generation and its admission."""
        key = self._broker.key_of(assigned.identity, request.resource, request.xms_cc, _workload(entry)).lasting
        if request.force_refresh and self._broker.caching:
            # The ready responses of every pod that shares the identity contain the replaced token.
            for other_entry in self._cluster_cache.entries():
                if other_entry.serves(key):
                    other_entry.discard_ready_responses()
        # The fast lane updates one expires_in only, and a response that a read confirmed expires with the read.
        cacheable = certain and self._broker.caching and not fetched.auxiliary
        if cacheable:
            entry.serve(key)
        now = self._clock()
        return Issued(
            token=fetched.token,
            record=entry.record,
            generation=entry.record.generation,
            expires_ns=int(fetched.expires_at * 1e9),
            fresh_until_ns=int(fetched.fresh_until(now) * 1e9),
            usage=fetched.usage,
            cacheable=cacheable,
            pod=entry.key,
            identity=_name_of(assigned),
            uid=entry.uid,
            correlation=fetched.correlation,
            auxiliary=fetched.auxiliary,
        )


def _is_rejected(fetched: CachedToken | Refusal, request: TokenRequest) -> bool:
    """Return whether *fetched* is the token that the client reports as rejected by a service."""
    if not request.rejected_sha256 or request.force_refresh or isinstance(fetched, Refusal):
        return False
    tokens = (fetched.token, *fetched.auxiliary)
    return request.rejected_sha256 in {sha256(token.access_token.encode()).hexdigest() for token in tokens}


def _name_of(assigned: AssignedIdentity) -> str:
    metadata = assigned.identity.metadata
    return f"{metadata.namespace}/{metadata.name}"


def _workload(entry: PodEntry) -> Workload:
    return Workload(entry.namespace, entry.name, entry.uid, entry.pod.spec.service_account_name)
