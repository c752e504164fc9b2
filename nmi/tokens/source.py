"""What a source of tokens is, one per type of AzureIdentity. `user_assigned` is type 0; others come beside it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from nmi.tokens.token import Token
from podidentity.azure.errors import AzureError
from podidentity.resources import AzureIdentity

Slot = Callable[[], AbstractAsyncContextManager[object]]
"""Entered for each call to IMDS that the fetch makes; sources that do not call IMDS leave it alone."""


class Course(Protocol):
    """What a fetch tells of its way to whoever waits for it."""

    def met(self, error: AzureError) -> None:
        """*error* is about to be tried again: who can wait no longer hears of it."""

    def sending(self) -> AbstractContextManager[None]:
        """Entered while a call is in the air that is to be finished even if nobody waits any more."""


class Unwatched:
    """A Course that nobody follows."""

    def met(self, error: AzureError) -> None:
        """Nobody hears."""

    def sending(self) -> AbstractContextManager[None]:
        """Nobody waits."""
        return nullcontext()


UNWATCHED: Final = Unwatched()


@dataclass(frozen=True, slots=True)
class Workload:
    """The pod that a token is asked for, where its identity depends on that: what it proves itself by is its own."""

    namespace: str
    pod: str
    uid: str
    service_account: str


class PolicyError(Exception):
    """A token may not be fetched this way here: nothing was read and nothing was sent.

    *sentence* is for the pod, *detail* for the operator; both name the policy, and the flag that would allow it.
    """

    def __init__(self, sentence: str, detail: str) -> None:
        self.sentence = sentence
        self.detail = detail
        super().__init__(sentence)


class TokenKey(NamedTuple):
    """Whatever makes two requests get the same token. No resource version: an annotation must not empty caches.

    Both ids of an identity, whichever of them upstream is asked by: the other one is compared with the answer.
    """

    type: int
    client_id: str
    resource_id: str
    tenant: str
    """With the auxiliary tenants behind it, in their order: they are part of the answer."""
    endpoint: str
    secret: str
    """The Secret's `namespace/name`: whoever names a client but not the Secret with its password gets nothing."""
    pod: str
    """The uid of the one pod that may have it; empty where all pods with the identity share it."""
    resource: str
    xms_cc: str
    credential: str = ""
    """As TokenSource.credential: which version of that Secret. Empty for types without one."""

    @property
    def identity(self) -> tuple[object, ...]:
        """The part that does not depend on the request."""
        return self[:7]

    @property
    def lasting(self) -> "TokenKey":
        """The key without what a rotation changes."""
        return self._replace(credential="") if self.credential else self


def key_of(identity: AzureIdentity, resource: str, xms_cc: str, credential: str = "", pod: str = "") -> TokenKey:
    """The key under which a token of *identity* is kept. Azure compares ids case-insensitively, audiences exactly."""
    spec = identity.spec
    password = spec.client_password
    secret = f"{password.namespace or identity.metadata.namespace}/{password.name}" if password is not None else ""
    return TokenKey(
        spec.type,
        spec.client_id.lower(),
        spec.resource_id.lower(),
        " ".join((spec.tenant_id, *(spec.auxiliary_tenant_ids or ()))).lower(),
        spec.ad_endpoint.lower(),
        secret,
        pod,
        resource,
        xms_cc,
        credential,
    )


@dataclass(frozen=True, slots=True)
class Granted:
    """A token as it came from its source."""

    token: Token
    expires_in: int
    """Seconds from now, as the source said: a node whose wall clock is wrong still knows how long it has."""
    object_id: str = ""
    """The identity's object id where the source told it, else empty."""
    auxiliary: tuple[Token, ...] = ()
    """Tokens of the identity's further tenants, in their order. None of them may outlive what *expires_in* says."""
    credential: str = ""
    """What it was fetched with, in the form in which TokenSource.credential tells it: the token's key holds it."""
    correlation: str = ""
    """The id under which upstream's own logs have this call, if it told one; short, plain ASCII."""


class TokenSource(Protocol):
    """Fetches tokens of one type of identity, from nowhere but upstream."""

    per_pod: bool
    """Whether each pod has tokens of its own: what it proves itself by is its own, and they go with it."""

    def check(self, identity: AzureIdentity) -> None:
        """Raises PolicyError if no token of *identity* may be had on this node. Pure and cheap: asked every time."""

    def credential(self, identity: AzureIdentity) -> str:
        """The Secret of *identity* and the version of it that last brought a token; empty for kinds without one.

        Reads nothing: a version that has changed since shows with the next fetch.
        """

    async def fetch(
        self,
        identity: AzureIdentity,
        resource: str,
        *,
        xms_cc: str,
        bypass_cache: bool,
        within: float,
        lag_seconds: float,
        slot: Slot,
        course: Course = UNWATCHED,
        workload: Workload | None = None,
    ) -> Granted:
        """A token, *within* so many seconds, retried as its endpoint's guidance has it.

        *workload* is there where it is *per_pod*, and nobody else's business.

        For *lag_seconds* "no such identity" may be taken for an endpoint that has not heard of it yet. Raises
        AzureError, and CongestedError out of *slot*.
        """
