"""What a pod proves itself by at Entra ID: a token of its own service account, asked of the API server.

Bound to the pod, so that the API server makes none for a pod that is gone; for the one audience that stands for token
exchange; and for the shortest life that the API server gives. One serves a pod's exchanges for a minute, whatever they
are for: else a pod that asks for ever new tokens would have NMI ask the API server as often.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from nmi.tokens.claims import claims_of
from nmi.tokens.source import Workload
from podidentity.azure.errors import AzureError, Refused, Unreachable
from podidentity.kube import errors as kube
from podidentity.kube.client import Client, object_path
from podidentity.resources import Kind, Resource

LIFE_SECONDS: Final = 600
"""The least that the API server gives."""

KEPT_SECONDS: Final = 60.0
"""What is left of its life then is enough for any exchange."""
FAILURE_SECONDS: Final = 0.5
"""For so long the API server is not asked again for a pod for which it has just made none."""
KEPT_MAX: Final = 1024
"""Pods. A node runs 250 at most."""

_DENIED: Final = re.compile(r" denied (?:the )?request: (.+)", re.DOTALL)
"""What the API server writes between the name of a policy, or a webhook, and its words. Those are what helps, and an
error's message has no room for all of it."""

SERVICE_ACCOUNTS: Final = Kind("ServiceAccount", "serviceaccounts", Resource)


class NoAssertionError(Refused):
    """The API server makes no token for this pod; the message says why and what to do."""


class NoAssertionYet(Unreachable):
    """The API server did not answer, or was not able to; it may the next time."""


@dataclass(frozen=True, slots=True)
class Assertion:
    """A token, and what Entra ID must have been told to trust it."""

    token: str = field(repr=False)
    issuer: str
    subject: str
    audience: str


class _Status(msgspec.Struct):
    token: str = ""


class _Answer(msgspec.Struct):
    status: _Status


async def requested(client: Client, namespace: str, account: str, audience: str, **spec: object) -> str:
    """A token of the service account for *audience*, for LIFE_SECONDS; *spec* is what the TokenRequest asks besides.

    Raises ApiError, and ValueError for an answer that does not decode, which it does not quote: it is a secret.
    """
    asked = {"audiences": [audience], "expirationSeconds": LIFE_SECONDS, **spec}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": asked}
    path = object_path(SERVICE_ACCOUNTS, namespace, account, "token")
    told = await client.request("POST", path, body=msgspec.json.encode(body))
    try:
        return msgspec.json.decode(told, type=_Answer).status.token
    except RecursionError:
        raise ValueError("nested too deep") from None


class _Kept:
    """The API server's last word about one pod; who asks while it is asked waits for the same."""

    __slots__ = ("lock", "outcome", "until")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.outcome: Assertion | AzureError | None = None
        self.until = float("-inf")


class Assertions:
    """Asks for them, and keeps each for a while. The client stays its owner's."""

    def __init__(
        self,
        client: Client,
        audience: str,
        *,
        count_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*count_failure* is called for each request that the API server did not answer with a token."""
        self._client = client
        self._count_failure = count_failure
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self.audience = audience

    def __len__(self) -> int:
        """For how many pods something is kept."""
        return len(self._kept)

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._kept.pop(uid, None)

    async def of(self, workload: Workload) -> Assertion:
        """One for *workload*, at most KEPT_SECONDS old. Raises AzureError: NoAssertionError where asking again does not
        help.
        """
        kept = self._kept.setdefault(workload.uid, _Kept())
        self._kept.move_to_end(workload.uid)
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        async with kept.lock:
            if kept.outcome is None or self._clock() >= kept.until:
                try:
                    kept.outcome = await self._asked(workload)
                except AzureError as error:
                    kept.outcome = error.again()
                seconds = KEPT_SECONDS if isinstance(kept.outcome, Assertion) else FAILURE_SECONDS
                kept.until = self._clock() + seconds
            if isinstance(kept.outcome, Assertion):
                return kept.outcome
            failure = kept.outcome.again()
        raise failure

    async def _asked(self, workload: Workload) -> Assertion:
        """What the API server says now. Raises AzureError."""
        if not workload.service_account:
            raise NoAssertionError(
                f"pod {workload.namespace}/{workload.pod} has no service account, which each pod gets when it is made: "
                f"make it anew",
                code="service_account_missing",
            )
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
            claims = claims_of(token)
            if token.isascii() and token.isprintable() and claims.iss:
                return Assertion(token, claims.iss, claims.sub, self.audience)
            failure = _unreadable(workload)
        self._count_failure()
        raise failure


def _name(workload: Workload) -> str:
    return f"{workload.namespace}/{workload.service_account}"


def _unreadable(workload: Workload) -> AzureError:
    return NoAssertionYet(
        f"the API server answered with no token of service account {_name(workload)}", code="no_assertion"
    )


def _failure(workload: Workload, error: kube.ApiError) -> AzureError:
    """The API server's refusal as what it means for the token."""
    account, pod = _name(workload), f"{workload.namespace}/{workload.pod}"
    denied = _DENIED.search(error.message)
    match error:
        case kube.NotFound():
            return NoAssertionError(
                f"pod {pod} or its service account {account} is not there any more: create the service account again",
                code="service_account_missing",
            )
        case kube.Conflict():
            return NoAssertionError(
                f"pod {pod} has been replaced by another of its name, which asks for itself: nothing to do",
                code="pod_replaced",
            )
        case kube.Forbidden() if denied is not None:
            return NoAssertionError(
                f"an admission policy denies NMI tokens of service account {account}: {denied[1]}",
                code="assertion_forbidden",
            )
        case kube.Forbidden() | kube.Unauthorized():
            return NoAssertionError(
                f"NMI may not ask for tokens of service account {account}: see the chart's federated.namespaces, and "
                f"what the API server says: {error}",
                code="assertion_forbidden",
            )
        case _ if 400 <= error.status < 500 and error.status not in {408, 429}:
            return NoAssertionError(
                f"the API server makes no token of service account {account} for pod {pod}; see what it says: "
                f"{denied[1] if denied is not None else error}",
                code="assertion_refused",
            )
        case _:
            return NoAssertionYet(
                f"the API server gave no token of service account {account}: {error}",
                code="assertion_unavailable",
                retry_after=error.retry_after,
            )
