"""From a peer's address (or a named pod) and a request to a token or a refusal: where deciding and fetching meet.

One budget covers everything: finding the pod, holding for an assignment, asking Azure. What was decided before an await
is not trusted after it: the record's generation is captured with the decision and compared before anything is handed
out, and where it has moved on the decision is made anew. Knows no HTTP and no status codes.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from _native.answers import Usage
from _native.index import PodRecord
from nmi import azure_error_text
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.cluster_cache import GONE, ClusterCache, DecisionInput
from nmi.identity.decide import Decision, DecisionPolicy, Exempt, Grant, Wait, decide
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pods import PodEntry
from nmi.identity.request import TokenRequest
from nmi.refusal import Limit, Reason, Refusal
from nmi.tokens.assertions import NoAssertionError, NoAssertionYet
from nmi.tokens.broker import LAG_RETRY_SECONDS, LAG_WINDOW_SECONDS, Broker
from nmi.tokens.cache import CachedToken
from nmi.tokens.federated import UntrustedError
from nmi.tokens.governor import CongestedError
from nmi.tokens.secrets import CredentialError
from nmi.tokens.source import PolicyError, Workload
from nmi.tokens.token import Token
from nmi.tokens.user_assigned import OtherIdentityError
from podidentity.azure.errors import AzureError, Refused, Throttled
from podidentity.azure.imds import RawAnswer, is_identity_not_found
from podidentity.resources import AzureIdentity
from podidentity.telemetry.logs import redacted

_UNKNOWN_ADDRESS: Final = Refusal(
    Reason.UNKNOWN_ADDRESS,
    "No pod is known at this address.",
    "see what has this address: a host-network or finished pod, a process of the node, or a pod not told of yet",
)
_UNKNOWN_NAME: Final = Refusal(
    Reason.UNKNOWN_ADDRESS,
    "No pod of that name is known on this node.",
    "see what asks /host/token on the node: it named a pod that does not run here, has finished, or is not known yet",
)
_LATE: Final = Refusal(
    Reason.UPSTREAM_UNAVAILABLE,
    "The token did not come in time; try again.",
    "Azure's endpoint took longer than --max-hold leaves it: see whether IMDS answers on this node",
)
UNSUPPORTED_TYPE: Final = Refusal(
    Reason.POLICY,
    "The type of this pod's AzureIdentity is not served by this node.",
    "types are 0 (user-assigned identity), 1 (secret), 2 (certificate) and 3 (federated): set spec.type of the "
    "AzureIdentity right",
)
_NO_HOST_TOKENS: Final = Refusal(
    Reason.POLICY,
    "This node gives out no tokens of this type of identity by way of the host.",
    "--host-token-types does not list the type of this pod's AzureIdentity",
)
_EXEMPT_HAS_NONE: Final = Refusal(
    Reason.NO_MATCHING_IDENTITY,
    "This pod is under an exception and has no identity of its own.",
    "/host/token never gives out the node's own identities: ask from within the pod, or end its exception",
)
_NO_NODE_IDENTITIES: Final = Refusal(
    Reason.POLICY,
    "The node's own identities are not given out here.",
    "this issuer was built without a source of them: report it, since NMI always builds one",
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
    uid: str = ""
    """The pod's, for the log."""
    correlation: str = ""
    """The id under which Azure's own logs have the call that brought the token, where it told one."""
    auxiliary: tuple[Token, ...] = ()
    """Tokens of the identity's further tenants, in their order; with any the answer never becomes a ready one."""


class NodeIdentities(Protocol):
    """The node's own identities: `nmi.tokens.node_identity`."""

    async def token(self, request: TokenRequest, starter: str, within: float) -> RawAnswer:
        """What IMDS says to *request*, whatever it is, *within* so many seconds; *starter* is the pod that pays.

        Raises AzureError and CongestedError.
        """


@dataclass(slots=True)
class _Asking:
    """One request on its way."""

    peer: str
    """The address that asks, or empty: the pod was named by a process of the node."""
    request: TokenRequest
    arrived: float
    """By the loop's time."""
    refusal: Refusal
    """What it gets if its budget ends now."""


class Issuer:
    """Stateless but for what it was given; any number of requests at once."""

    def __init__(
        self,
        cluster_cache: ClusterCache,
        broker: Broker,
        policy: DecisionPolicy,
        measures: IdentityMetrics,
        *,
        node_identities: NodeIdentities | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*clock* must be that of *feed* and *broker*. Without *node_identities* exempt pods are refused."""
        self._cluster_cache = cluster_cache
        self._broker = broker
        self._policy = policy
        self._measures = measures
        self._node_identities = node_identities
        self._clock = clock

    async def issue(self, peer: str, request: TokenRequest) -> Issued | RawAnswer | Refusal:
        """What the pod at *peer* gets for *request*, within the policy's max_hold_seconds.

        A RawAnswer is IMDS's own, for an exempt pod, to be handed on as it is and never kept. Cancelling it (the client
        went away) disturbs nobody else. Raises only what is a fault of ours.
        """
        return await self._within_budget(self._cluster_cache.entry_at(peer), peer, request, _UNKNOWN_ADDRESS)

    async def issue_for(self, namespace: str, name: str, request: TokenRequest) -> Issued | RawAnswer | Refusal:
        """What a process of the node gets for the pod of this node that it names, be that on the host's network.

        That it is a process of the node is for the caller to make sure. Only types in the policy's host_token_types;
        never the node's own identities; never made into a ready answer. The rest as `issue`.
        """
        if not self._policy.host_token_types:
            return _NO_HOST_TOKENS
        return await self._within_budget(self._cluster_cache.entry_named(namespace, name), "", request, _UNKNOWN_NAME)

    async def _within_budget(
        self, finding: Coroutine[Any, Any, PodEntry | None], peer: str, request: TokenRequest, unknown: Refusal
    ) -> Issued | RawAnswer | Refusal:
        """*finding* and all that follows. An empty *peer*: the pod was named."""
        arrived = asyncio.get_running_loop().time()
        asking = _Asking(peer, request, arrived, unknown)
        limit = asyncio.timeout_at(arrived + self._policy.max_hold_seconds)
        try:
            async with limit:
                entry = await finding
                if entry is None:
                    return unknown
                asking.refusal = _LATE
                return await self._issue(entry, asking)
        except TimeoutError:
            if not limit.expired():
                raise
            return asking.refusal

    async def _issue(self, entry: PodEntry, asking: _Asking) -> Issued | RawAnswer | Refusal:
        """Decide, and do what was decided, until nothing has changed meanwhile.

        It ends: each round but the last has seen a change, and the budget is the caller's.
        """
        while self._is_there(entry, asking):
            generation = entry.record.generation
            decision_input = await self._cluster_cache.decision_input(entry, asking.peer)
            if isinstance(decision_input, Refusal):
                return decision_input
            if not self._is_there(entry, asking):
                break  # nothing is to be fetched for a pod that has gone meanwhile: nobody would forget it again
            decision: Decision = (
                decision_input
                if isinstance(decision_input, Wait)
                else decide(
                    decision_input.pod, decision_input.assigned, asking.request, self._policy, self._broker.object_ids
                )
            )
            outcome: Issued | RawAnswer | Refusal | None
            match decision:
                case Refusal():
                    outcome = decision
                case Wait():
                    asking.refusal = decision.refusal
                    waited = await self._hold(entry, generation, asking.arrived + decision.seconds)
                    outcome = None if waited else decision.refusal
                case Exempt():
                    asking.refusal = _LATE
                    outcome = await self._ask_as_node(entry, asking, generation, decision_input)
                case Grant(assigned):
                    asking.refusal = _LATE
                    outcome = await self._grant(entry, assigned, asking, generation, decision_input)
            if outcome is not None:
                return outcome
        return GONE

    async def _grant(
        self,
        entry: PodEntry,
        assigned: AssignedIdentity,
        asking: _Asking,
        generation: int,
        decision_input: DecisionInput | Wait,
    ) -> Issued | Refusal | None:
        """The token; None where what was decided at *generation* no longer stands."""
        request = asking.request
        if not asking.peer and assigned.identity.spec.type not in self._policy.host_token_types:
            return replace(_NO_HOST_TOKENS, identity=_name_of(assigned))
        fetched = await self._fetch(assigned, request, entry, self._left(asking))
        if isinstance(fetched, Refusal):
            return replace(fetched, identity=_name_of(assigned)) if self._is_there(entry, asking) else None
        if await self._still_stands(entry, asking, generation, decision_input):
            certain = isinstance(decision_input, DecisionInput) and decision_input.certain
            return self._issued(fetched, assigned, request, entry, certain=certain and bool(asking.peer))
        # What was fetched anew is in the cache by now; it need not be fetched twice.
        asking.request = replace(request, force_refresh=request.force_refresh and not self._broker.caching)
        return None

    async def _ask_as_node(
        self, entry: PodEntry, asking: _Asking, generation: int, decision_input: DecisionInput | Wait
    ) -> RawAnswer | Refusal | None:
        """What IMDS says to an exempt pod that asks itself; None where it is no longer known to be exempt."""
        if not asking.peer:
            return _EXEMPT_HAS_NONE
        if self._node_identities is None:
            return _NO_NODE_IDENTITIES
        try:
            answer = await self._node_identities.token(asking.request, entry.key, self._left(asking))
        except CongestedError as error:
            return _congested(error)
        except AzureError as error:
            return refusal_of(error)
        return answer if await self._still_stands(entry, asking, generation, decision_input) else None

    def _left(self, asking: _Asking) -> float:
        """Seconds of the budget."""
        return asking.arrived + self._policy.max_hold_seconds - asyncio.get_running_loop().time()

    def _is_there(self, entry: PodEntry, asking: _Asking) -> bool:
        return self._cluster_cache.is_at(asking.peer, entry) if asking.peer else not entry.gone

    def _is_unchanged(self, entry: PodEntry, asking: _Asking, generation: int) -> bool:
        """Whether what was decided at *generation* still stands after an await."""
        return self._is_there(entry, asking) and entry.record.generation == generation

    async def _still_stands(
        self, entry: PodEntry, asking: _Asking, generation: int, decision_input: DecisionInput | Wait
    ) -> bool:
        """Whether what was decided on *standing* may be handed out, after what it takes has been fetched.

        What reads vouched for is asked for again, since an address can pass on without any change of the record. Reads
        are shared for a second, so that a quick fetch costs no further one.
        """
        if (
            self._is_unchanged(entry, asking, generation)
            and isinstance(decision_input, DecisionInput)
            and decision_input.verified
        ):
            again = await self._cluster_cache.decision_input(entry, asking.peer)
            if not isinstance(again, DecisionInput) or (again.pod, again.assigned) != (
                decision_input.pod,
                decision_input.assigned,
            ):
                return False
        return self._is_unchanged(entry, asking, generation)

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
            return _congested(error)
        except AzureError as error:
            recent = self._clock() - assigned.usable_since < LAG_WINDOW_SECONDS + LAG_RETRY_SECONDS
            if recent and is_identity_not_found(error):
                return replace(_LAGGING, correlation=error.correlation_id)
            return refusal_of(error, _own_of(assigned.identity, request))

    def _issued(
        self, fetched: CachedToken, assigned: AssignedIdentity, request: TokenRequest, entry: PodEntry, *, certain: bool
    ) -> Issued:
        """Nothing is awaited from the check of the generation to here, and from here to its admission."""
        key = self._broker.key_of(assigned.identity, request.resource, request.xms_cc, _workload(entry)).lasting
        if request.force_refresh and self._broker.caching:
            # The ready answers of every pod that shares the identity hold the token that has just been replaced.
            for other in self._cluster_cache.entries():
                if other.serves(key):
                    other.bump()
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


def _name_of(assigned: AssignedIdentity) -> str:
    metadata = assigned.identity.metadata
    return f"{metadata.namespace}/{metadata.name}"


def _workload(entry: PodEntry) -> Workload:
    return Workload(entry.namespace, entry.name, entry.uid, entry.pod.spec.service_account_name)


def _congested(error: CongestedError) -> Refusal:
    return Refusal(
        Reason.OVERLOADED,
        "Too many token requests are waiting on this node; try again.",
        "calls to IMDS are queued up to their limit: find the pods that ask for many different tokens",
        retry_after=error.retry_after,
        limit=Limit.GOVERNOR_QUEUE,
    )


def refusal_of(error: AzureError, own: Collection[str] = ()) -> Refusal:
    """What a pod, and the operator, are told of an upstream failure.

    Of a refused token the pod reads Azure's own sentence too, without the ids and names in it that are not among *own*
    (`azure_error_text`). Never the word "unreachable", by which SDKs know that there is no such endpoint at all.
    """
    code = "" if "unreachable" in error.code.lower() else error.code
    facts = [code, f"correlation id {error.correlation_id}" if error.correlation_id else ""]
    told = ", ".join(fact for fact in facts if fact)
    suffix = f" ({told})" if told else ""
    if isinstance(error, UntrustedError | NoAssertionError | NoAssertionYet):
        return _unproved(error, suffix)
    if isinstance(error, OtherIdentityError):
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"The clientID of this identity's AzureIdentity is not that of the identity on Azure{suffix}.",
            f"{error.message}: set its clientID and resourceID to those of one identity (az identity show)",
            correlation=error.correlation_id,
        )
    if isinstance(error, CredentialError):
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"What this identity's Secret holds cannot be used, and Azure was not asked{suffix}.",
            error.message,
        )
    if isinstance(error, Refused):
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"Azure refused a token for this identity{suffix}.{_answer_of(error, own)}",
            f"check the AzureIdentity's clientID and the resource asked for: {error.message}",
            correlation=error.correlation_id,
        )
    if isinstance(error, Throttled):
        return Refusal(
            Reason.UPSTREAM_THROTTLED,
            f"Azure limits token requests of this node at the moment; try again{suffix}.",
            f"other callers may use IMDS on this node, or the same service principal, beside NMI: {error.message}",
            retry_after=error.retry_after,
            correlation=error.correlation_id,
        )
    return Refusal(
        Reason.UPSTREAM_UNAVAILABLE,
        f"Azure's token endpoint did not give a token; try again{suffix}.",
        f"see whether IMDS, or Azure AD for a service principal, answers on this node: {error.message}",
        retry_after=error.retry_after,
        correlation=error.correlation_id,
    )


def _answer_of(error: AzureError, own: Collection[str]) -> str:
    said = azure_error_text.for_pod(error.said, own)
    return f" Azure's answer: {said}" if said else ""


def _own_of(identity: AzureIdentity, request: TokenRequest) -> tuple[str, ...]:
    """The ids and names that a pod with *identity* knows anyway."""
    spec, resource = identity.spec, request.resource
    return spec.client_id, spec.tenant_id, *(spec.auxiliary_tenant_ids or ()), resource, f"{resource}/.default"


def _unproved(error: UntrustedError | NoAssertionError | NoAssertionYet, suffix: str) -> Refusal:
    """What is told where a pod's own service account has not been proved to Azure."""
    if isinstance(error, UntrustedError):
        trust = f"issuer {error.issuer}, subject {error.subject}, audience {error.audience}"
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"Azure knows no federated credential of this identity for {trust}{suffix}.",
            f"give the identity with client id {redacted(error.client_id)} a federated credential of exactly these "
            f"(az identity federated-credential create), and allow some minutes until it is known: {trust}",
            correlation=error.correlation_id,
        )
    if isinstance(error, NoAssertionError):
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"This pod's service account cannot be proved to Azure, which was not asked{suffix}.",
            error.message,
        )
    return Refusal(
        Reason.UPSTREAM_UNAVAILABLE,
        f"This pod's service account could not be proved to Azure at the moment; try again{suffix}.",
        f"see whether the API server answers this node: {error.message}",
        retry_after=error.retry_after,
    )
