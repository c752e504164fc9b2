"""The interface of a token source (one per type of AzureIdentity), its input, and the forms of a token.

A source returns a FetchedToken; `nmi.tokens.cache` keeps it as a CachedToken; a pod's request gets it as Issued.
"""

import base64
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

import msgspec

from nmi.tokens.fair_queue import Charged
from podidentity.azure.errors import AzureError
from podidentity.hidden_fields import HidingStruct
from podidentity.resources import AzureIdentity

if TYPE_CHECKING:  # podidctl imports this module without compiled modules
    from _native.index import PodRecord
    from _native.ready_responses import Usage

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

CallPermits = Callable[[], AbstractAsyncContextManager[object]]
"""Return a permit for one call to IMDS: the source enters it for the call. Sources that do not call IMDS ignore it."""


class FetchObserver:
    """Progress callbacks of a fetch, for the requests that wait for it. This base class ignores them."""

    def retrying(self, error: AzureError) -> None:
        """Record that the fetch failed with *error* and will try again: a waiter that times out reports this error."""

    def awaiting(self, silence: AzureError) -> None:
        """Record that the fetch waits for a response: a waiter that times out before it reports *silence*."""

    def sending(self) -> AbstractContextManager[None]:
        """Return a context manager for a call that must complete even if no request waits any more."""
        return nullcontext()


NULL_OBSERVER: Final = FetchObserver()


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


class IdentityKey(NamedTuple):
    """What a token source uses of an AzureIdentity, in one normal form. Identities with equal values share tokens.

    A field that the source ignores is empty, so that it gives an identity no second token. It has no resource version:
    an edited annotation must not empty the cache. Azure compares ids without regard to case.
    """

    type: int
    client_id: str = ""
    """The client id also of a request that names the resource id: it is compared with the response."""
    resource_id: str = ""
    tenant: str = ""
    """The tenant and then the auxiliary tenants in their order: they are part of the response."""
    endpoint: str = ""
    """The sign-in endpoint, and the exchange of a federated identity."""
    secret: str = ""
    """The Secret's `namespace/name`: an identity that names a client but another Secret gets no token of this one."""
    credential: str = ""
    """The version of the Secret that last brought a token. Empty for types without a Secret."""


class TokenKey(NamedTuple):
    """Everything that distinguishes one token from another: an IdentityKey, the pod, and the request."""

    type: int
    client_id: str
    resource_id: str
    tenant: str
    endpoint: str
    secret: str
    pod: str
    """The uid of the only pod that may have the token; empty if all pods with the identity share it."""
    resource: str
    """Azure compares audiences exactly."""
    xms_cc: str
    credential: str = ""

    @classmethod
    def of(cls, identity: IdentityKey, resource: str, xms_cc: str, pod: str = "") -> Self:
        return cls(*identity[:-1], pod, resource, xms_cc, identity.credential)

    @property
    def identity(self) -> tuple[object, ...]:
        """The part that does not depend on the request."""
        return self[:7]

    @property
    def lasting(self) -> "TokenKey":
        """The key without the part that a rotation of the Secret changes."""
        return self._replace(credential="") if self.credential else self


class FetchRequest(msgspec.Struct, frozen=True):
    """The token to fetch. It retains no flight, because a refresh timer stores it for as long as the token lives."""

    key: TokenKey
    identity: AzureIdentity
    force_refresh: bool = False
    """Skip IMDS's own cache too."""
    workload: Workload | None = None
    """The pod that the token is for, if the source is `per_pod`; sources of shared tokens ignore it."""

    @property
    def resource(self) -> str:
        return self.key.resource

    @property
    def xms_cc(self) -> str:
        return self.key.xms_cc

    @property
    def namespace(self) -> str:
        """The namespace of the AzureIdentity, which owns the entries of bounded tables."""
        return self.identity.metadata.namespace


class FetchContext(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one fetch, and its connections to the requests that wait for it."""

    timeout_seconds: float
    """The limit of the whole fetch, retries included."""
    lag_seconds: float = 0.0
    """While this time lasts, the source retries "no such identity": the endpoint may not know the identity yet."""
    call_permit: CallPermits = nullcontext
    charged: Charged = ""
    """The pods of which one is charged for each call that needs no *call_permit*."""
    observer: FetchObserver = NULL_OBSERVER


class Token(HidingStruct, frozen=True, weakref=True):
    """A token that IMDS or Entra ID returned. Times are Unix seconds."""

    hidden = frozenset({"access_token", "client_id", "refresh_token"})

    access_token: str
    expires_on: int
    not_before: int
    resource: str
    client_id: str
    token_type: str = "Bearer"  # noqa: S105
    refresh_token: str = ""
    ext_expires_in: str = ""


class JwtClaims(msgspec.Struct, frozen=True):
    """The claims of a JWT that NMI reads; empty or 0 if absent.

    A token is opaque by contract: a claim that cannot be read counts as absent. Only for tokens that Azure or the API
    server has just returned: their signature needs no check.
    """

    oid: str = ""
    appid: str = ""
    azp: str = ""
    nbf: int = 0
    iss: str = ""
    sub: str = ""

    @property
    def client_id(self) -> str:
        """The application that the token is for: `appid` in tokens of version 1.0, `azp` in version 2.0."""
        return self.appid or self.azp


_claims: Final = msgspec.json.Decoder(JwtClaims)
_NO_CLAIMS: Final = JwtClaims()


def decode_claims(token: str) -> JwtClaims:
    """Return the claims of a JWT, and empty claims for any other text. Omit an `oid` that is not a UUID."""
    parts = token.split(".")
    if len(parts) != 3:
        return _NO_CLAIMS
    try:
        # The parts of a JWT have no padding (RFC 7515 section 2), which base64 requires.
        claims = _claims.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return _NO_CLAIMS
    return claims if _UUID.fullmatch(claims.oid) else msgspec.structs.replace(claims, oid="")


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
    """The credential that brought it, in the form of IdentityKey.credential: part of the token's key."""
    correlation: str = ""
    """The id under which the endpoint's logs list this call, if it returned one; short, plain ASCII."""


class Issued(msgspec.Struct, frozen=True):
    """A cached token that the pod may have, as of the record's *generation*. Times are from time.monotonic_ns()."""

    token: Token
    record: "PodRecord"
    generation: int
    expires_ns: int
    fresh_until_ns: int
    usage: "Usage"
    cacheable: bool
    """Whether it may become a ready response."""
    pod: str = ""
    """`namespace/name`, for the log."""
    identity: str = ""
    """The AzureIdentity's `namespace/name`, for the log."""
    uid: str = ""
    """The pod's, for the log."""
    correlation: str = ""
    """The id of the call in Azure's own logs, if Azure returned one."""
    auxiliary: tuple[Token, ...] = ()
    """Tokens of the identity's further tenants, in their order. With any of them there is no ready response."""


class TokenSource(Protocol):
    """A source of tokens for one type of identity. It always calls the endpoint and caches nothing."""

    per_pod: bool
    """Whether tokens belong to one pod: the pod's own credential brings them, and they are dropped with the pod."""

    def check(self, identity: AzureIdentity) -> None:
        """Raise PolicyError if this node may not fetch tokens of *identity*. Pure and cheap: called per request."""

    def key(self, identity: AzureIdentity, /) -> IdentityKey:
        """Return what `fetch` uses of *identity*. Raise PolicyError as `check` does.

        Reads nothing: a changed version of a Secret shows with the next fetch.
        """

    def accept(self, identity: AzureIdentity, credential: str, /) -> None:
        """Note that *credential* has brought the token of *identity* that is used now: `key` contains it."""

    async def fetch(self, request: FetchRequest, context: FetchContext, /) -> FetchedToken:
        """Return a token, retried as the endpoint's guidance requires.

        Raise AzureError, and whatever entering *context.call_permit* raises (CongestedError).
        """
