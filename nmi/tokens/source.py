"""The interface of a token source: one per type of AzureIdentity, with its input (FetchRequest) and result."""

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Final, NamedTuple, Protocol

import msgspec

from nmi.tokens.token import Token
from podidentity.azure.errors import AzureError
from podidentity.resources import EXCHANGE_ANNOTATION, AzureIdentity, IdentityType

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

CallPermits = Callable[[], AbstractAsyncContextManager[object]]
"""Return a permit for one call to IMDS: the source enters it for the call. Sources that do not call IMDS ignore it."""


class FetchObserver(Protocol):
    """Progress callbacks of a fetch, for the requests that wait for it."""

    def retrying(self, error: AzureError) -> None:
        """Record that the fetch failed with *error* and will try again: a waiter that times out reports this error."""

    def awaiting(self, silence: AzureError) -> None:
        """Record that the fetch waits for a response: a waiter that times out before it reports *silence*."""

    def sending(self) -> AbstractContextManager[None]:
        """Return a context manager for a call that must complete even if no request waits any more."""


class NullObserver(FetchObserver):
    """A FetchObserver that ignores every callback."""

    @override
    def retrying(self, error: AzureError) -> None:
        """Ignore *error*."""

    @override
    def awaiting(self, silence: AzureError) -> None:
        """Ignore *silence*."""

    @override
    def sending(self) -> AbstractContextManager[None]:
        """Return a context manager without effect."""
        return nullcontext()


NULL_OBSERVER: Final = NullObserver()


class Workload(msgspec.Struct, frozen=True):
    """The pod that a token is for. Used by sources whose credential belongs to the pod."""

    namespace: str
    pod: str
    uid: str
    service_account: str


class PolicyError(Exception):
    """A policy forbids the fetch. The source has read and sent nothing.

    *sentence* is for the pod, *detail* for the operator. Both name the policy and the flag that changes it.
    """

    def __init__(self, sentence: str, detail: str) -> None:
        self.sentence = sentence
        self.detail = detail
        super().__init__(sentence)


class TokenKey(NamedTuple):
    """Everything that distinguishes one token from another. It has no resource version: an edited annotation must not
    empty the cache.

    The key contains both ids of an identity, whichever of them the source sends: the other one is compared with the
    response.
    """

    type: int
    client_id: str
    resource_id: str
    tenant: str
    """The tenant and then the auxiliary tenants in their order: they are part of the response."""
    endpoint: str
    """The sign-in endpoint, and the exchange of a federated identity if an annotation chooses it."""
    secret: str
    """The Secret's `namespace/name`: an identity that names a client but another Secret gets no token of this one."""
    pod: str
    """The uid of the only pod that may have the token; empty if all pods with the identity share it."""
    resource: str
    xms_cc: str
    credential: str = ""
    """The result of TokenSource.credential: the version of the Secret. Empty for types without a Secret."""

    @property
    def identity(self) -> tuple[object, ...]:
        """The part that does not depend on the request."""
        return self[:7]

    @property
    def lasting(self) -> "TokenKey":
        """The key without the part that a rotation of the Secret changes."""
        return self._replace(credential="") if self.credential else self


def key_of(identity: AzureIdentity, resource: str, xms_cc: str, credential: str = "", pod: str = "") -> TokenKey:
    """Return the cache key of a token of *identity*. Azure compares ids case-insensitively and audiences exactly."""
    spec = identity.spec
    password = spec.client_password
    secret = f"{password.namespace or identity.metadata.namespace}/{password.name}" if password is not None else ""
    endpoint = spec.ad_endpoint.lower()
    if spec.type == IdentityType.FEDERATED and (exchange := identity.metadata.annotation(EXCHANGE_ANNOTATION)):
        # A refresh uses the identity of its first request: after a change of the exchange it would use the former one.
        endpoint = f"{endpoint} {exchange}"
    return TokenKey(
        spec.type,
        spec.client_id.lower(),
        spec.resource_id.lower(),
        " ".join((spec.tenant_id, *(spec.auxiliary_tenant_ids or ()))).lower(),
        endpoint,
        secret,
        pod,
        resource,
        xms_cc,
        credential,
    )


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The input of one fetch: the token, and the limits within which it is fetched."""

    identity: AzureIdentity
    resource: str
    xms_cc: str = ""
    force_refresh: bool = False
    """Skip IMDS's own cache too."""
    workload: Workload | None = None
    """The pod that the token is for, if the source is `per_pod`; sources of shared tokens ignore it."""
    timeout_seconds: float
    """The limit of the whole fetch, retries included."""
    lag_seconds: float = 0.0
    """While this time lasts, the source retries "no such identity": the endpoint may not know the identity yet."""
    call_permit: CallPermits = nullcontext
    observer: FetchObserver = NULL_OBSERVER


class FetchedToken(msgspec.Struct, frozen=True):
    """The token that a source returned."""

    token: Token
    expires_in: int
    """Seconds from now, as the source reported them: they are right even if the node's wall clock is wrong."""
    object_id: str = ""
    """The identity's object id if the source returned it, else empty."""
    auxiliary: tuple[Token, ...] = ()
    """Tokens of the identity's auxiliary tenants, in their order. None of them may outlive *expires_in*."""
    credential: str = ""
    """The credential that brought it, in the form of TokenSource.credential: part of the token's key."""
    correlation: str = ""
    """The id under which the endpoint's logs list this call, if it returned one; short, plain ASCII."""


class TokenSource(Protocol):
    """A source of tokens for one type of identity. It always asks the endpoint and caches nothing."""

    per_pod: bool
    """Whether tokens belong to one pod: the pod's own credential brings them, and they are dropped with the pod."""

    def check(self, identity: AzureIdentity) -> None:
        """Raise PolicyError if this node may not fetch tokens of *identity*. Pure and cheap: called per request."""

    def credential(self, identity: AzureIdentity, /) -> str:
        """Return the Secret of *identity* and its version that last brought a token; empty for types without one.

        Reads nothing: a changed version shows with the next fetch.
        """

    def accept(self, identity: AzureIdentity, credential: str, /) -> None:
        """Note that *credential* has brought the token of *identity* that is used now: `credential` returns it."""

    async def fetch(self, request: FetchRequest, /) -> FetchedToken:
        """Return a token, retried as the endpoint's guidance requires.

        Raise AzureError, and whatever entering *request.call_permit* raises (CongestedError).
        """
