"""Assertions: the service account tokens with which a pod authenticates at Entra ID, from the API server.

An assertion is bound to the pod, so that the API server refuses one for a deleted pod. It has the single audience of
token exchange and the shortest lifetime that the API server allows. One assertion is used for all exchanges of a pod
within a minute: otherwise a pod that requests different tokens all the time would cause as many requests to the API
server.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from nmi.tokens.source import Workload, decode_claims
from podidentity.azure.errors import AzureError, Refused, Unreachable
from podidentity.hidden_fields import HidingStruct
from podidentity.kube import errors as kube
from podidentity.kube.client import Client
from podidentity.kube.paths import object_path
from podidentity.resources import Kind, Resource

LIFE_SECONDS: Final = 600
"""The minimum that the API server allows."""

KEPT_SECONDS: Final = 60.0
"""The time for which an assertion is used. The remaining lifetime is enough for any exchange."""
FAILURE_SECONDS: Final = 0.5
"""The time for which a failure is cached for a pod."""
KEPT_MAX: Final = 1024
"""Pods. A node runs 250 at most."""

_DENIED: Final = re.compile(r" denied (?:the )?request: (.+)", re.DOTALL)
"""The API server's text between the name of a policy or webhook and its message. The message is the useful part, and
an error has no space for all of it."""

SERVICE_ACCOUNTS: Final = Kind("ServiceAccount", "serviceaccounts", Resource)


class NoAssertionError(Refused):
    """The API server refuses a token for this pod. The message contains the cause and the next action."""


class NoAssertionYet(Unreachable):
    """The API server failed or did not respond. The next attempt may succeed."""


class Assertion(HidingStruct, frozen=True):
    """A token, and the values that Entra ID's federated credential must contain to trust it."""

    hidden = frozenset({"token"})

    token: str
    issuer: str
    subject: str
    audience: str


class _Status(msgspec.Struct):
    token: str = ""


class _TokenRequestResult(msgspec.Struct):
    status: _Status


async def requested(client: Client, namespace: str, account: str, audience: str, **spec: object) -> str:
    """Return a token of the service account for *audience*, valid LIFE_SECONDS. *spec*: more TokenRequest fields.

    Raise ApiError, and ValueError for an invalid response. Its text omits the response, which is a secret.
    """
    token_spec = {"audiences": [audience], "expirationSeconds": LIFE_SECONDS, **spec}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": token_spec}
    path = object_path(SERVICE_ACCOUNTS, namespace, account, "token")
    response = await client.request("POST", path, body=msgspec.json.encode(body))
    try:
        return msgspec.json.decode(response, type=_TokenRequestResult).status.token
    except RecursionError:
        # RecursionError is no ValueError, which callers expect.
        raise ValueError("nested too deep") from None


class _Entry:
    """The API server's last response for one pod. Concurrent requests share one call through the lock."""

    __slots__ = ("lock", "outcome", "until")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.outcome: Assertion | AzureError | None = None
        self.until = float("-inf")


class Assertions:
    """Client for assertions with a cache by pod. The caller owns the client of the API server."""

    def __init__(
        self,
        client: Client,
        audience: str,
        *,
        count_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*count_failure* is called for each request that does not return a token."""
        self._client = client
        self._count_failure = count_failure
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.audience = audience

    def __len__(self) -> int:
        """Return the number of pods in the cache."""
        return len(self._entries)

    def forget(self, uid: str) -> None:
        """Drop the entry of a deleted pod."""
        self._entries.pop(uid, None)

    async def of(self, workload: Workload) -> Assertion:
        """Return an assertion of *workload*, at most KEPT_SECONDS old.

        Raise AzureError; NoAssertionError if a retry does not help.
        """
        entry = self._entries.setdefault(workload.uid, _Entry())
        self._entries.move_to_end(workload.uid)
        while len(self._entries) > KEPT_MAX:
            self._entries.popitem(last=False)
        # Concurrent requests of a pod share one call to the API server.
        async with entry.lock:
            if entry.outcome is None or self._clock() >= entry.until:
                try:
                    entry.outcome = await self._request(workload)
                except AzureError as error:
                    entry.outcome = error.again()
                # A failure is kept for a moment too, so that requests that wait for the lock do not all repeat it.
                seconds = KEPT_SECONDS if isinstance(entry.outcome, Assertion) else FAILURE_SECONDS
                entry.until = self._clock() + seconds
            if isinstance(entry.outcome, Assertion):
                return entry.outcome
            failure = entry.outcome.again()
        raise failure

    async def _request(self, workload: Workload) -> Assertion:
        """Request an assertion from the API server. Raise AzureError."""
        if not workload.service_account:
            raise NoAssertionError(
                f"pod {workload.namespace}/{workload.pod} has no service account, which each pod gets when it is "
                f"created: create the pod again",
                code="service_account_missing",
            )
        # The API server then makes no assertion for a later pod of the same name.
        bound_to = {"apiVersion": "v1", "kind": "Pod", "name": workload.pod, "uid": workload.uid}
        try:
            token = await requested(
                self._client, workload.namespace, workload.service_account, self.audience, boundObjectRef=bound_to
            )
        except kube.ApiError as error:
            failure = _failure(workload, error)
        except ValueError:
            failure = _unreadable(workload)
        else:
            claims = decode_claims(token)
            if token.isascii() and token.isprintable() and claims.iss:
                return Assertion(token, claims.iss, claims.sub, self.audience)
            failure = _unreadable(workload)
        self._count_failure()
        raise failure


def _name(workload: Workload) -> str:
    return f"{workload.namespace}/{workload.service_account}"


def _unreadable(workload: Workload) -> AzureError:
    return NoAssertionYet(
        f"the API server's response contains no token of service account {_name(workload)}", code="no_assertion"
    )


def _failure(workload: Workload, error: kube.ApiError) -> AzureError:
    """Translate an error of the API server."""
    account, pod = _name(workload), f"{workload.namespace}/{workload.pod}"
    denied = _DENIED.search(error.message)
    match error:
        case kube.NotFound():
            return NoAssertionError(
                f"pod {pod} or its service account {account} does not exist: create the service account again",
                code="service_account_missing",
            )
        # The API server returns 409 if the pod of that name has another uid than boundObjectRef.
        case kube.Conflict():
            return NoAssertionError(
                f"another pod of the same name has replaced pod {pod}, and sends its own requests: nothing to do",
                code="pod_replaced",
            )
        case kube.Forbidden() if denied is not None:
            return NoAssertionError(
                f"an admission policy denies NMI tokens of service account {account}: {denied[1]}",
                code="assertion_forbidden",
            )
        case kube.Forbidden() | kube.Unauthorized():
            return NoAssertionError(
                f"NMI may not request tokens of service account {account}: check the chart's federated.namespaces and "
                f"the API server's error: {error}",
                code="assertion_forbidden",
            )
        # The API server returns 408 and 429 also for a request that it accepts later.
        case _ if 400 <= error.status < 500 and error.status not in {408, 429}:
            return NoAssertionError(
                f"the API server refuses a token of service account {account} for pod {pod}; check its error: "
                f"{denied[1] if denied is not None else error}",
                code="assertion_refused",
            )
        case _:
            return NoAssertionYet(
                f"the API server returned no token of service account {account}: {error}",
                code="assertion_unavailable",
                retry_after=error.retry_after,
            )
