"""Sign-ins at Entra ID (or AD FS) for all types of identity that need them: concurrency limit, metrics and retries.

The sources provide the credential of a sign-in.
"""

import asyncio
import random as random_module
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from nmi.tokens.endpoint_failures import EndpointFailures
from nmi.tokens.entra_loader import Loader
from nmi.tokens.fair_queue import Charged, GroupLimiter
from nmi.tokens.sign_in import ATTEMPT_SECONDS, CONNECTIONS, ProxyFor, SignIn, SignInResult, no_proxy
from nmi.tokens.source import NULL_OBSERVER, FetchObserver, Token, decode_claims
from podidentity.azure.errors import AzureError, Refused, Unreachable

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

PER_NAMESPACE: Final = 8
"""Concurrent reads and sign-ins for the identities of one namespace, of CONNECTIONS in total: a slow endpoint delays
its own namespace only. One pod has at most half of them, and two pods leave two to a third (`FairQueue`)."""

RETRY_DELAYS: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds before the second and each later attempt; a longer Retry-After takes precedence."""

CANCEL_SECONDS: Final = 0.05
"""How much earlier than a fetch's own clock the event loop may end it."""

Observe = Callable[[float, AzureError | None], None]
"""Called with the seconds and the error, if any, of each sign-in."""


class Attempts(NamedTuple):
    """The time limit of a fetch's attempts, their observer, and the pods of which one is charged for each."""

    until: float
    """By the clock of `SignIns`."""
    observer: FetchObserver = NULL_OBSERVER
    charged: Charged = ""


class SignIns:
    """The sign-ins of all sources of a node: they share its limits."""

    def __init__(
        self,
        open_session: "Callable[[], aiohttp.ClientSession]",
        *,
        proxy_for: ProxyFor = no_proxy,
        attempt_seconds: float = ATTEMPT_SECONDS,
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
        observe: Observe = lambda _seconds, _error: None,
        failures: EndpointFailures | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """*open_session* returns the session, which the caller owns; it is called with each sign-in.
        *attempt_seconds* is the timeout of one sign-in.
        """
        self._open_session = open_session
        self._proxy_for = proxy_for
        self._attempt_seconds = attempt_seconds
        self._retry_delays = retry_delays
        self._observe = observe
        self._failures = failures or EndpointFailures(clock=clock)
        self._wall_clock = wall_clock
        self._random = random
        self._sleep = sleep
        self._loader = Loader()
        self._limiter = GroupLimiter(CONNECTIONS, PER_NAMESPACE)
        self.clock = clock
        """The clock of every `Attempts`."""

    async def load(self) -> None:
        """Import azure-identity now, so that the first sign-in does not wait for it."""
        await self._loader.load()

    def permit(self, namespace: str, charged: Charged) -> AbstractAsyncContextManager[None]:
        """Limit the calls to Entra ID and to the API server: no namespace, and no pod of it, must use up either."""
        return self._limiter.acquire(namespace, charged)

    async def token(self, sign_in: SignIn, namespace: str, attempts: Attempts) -> SignInResult:
        """Return Entra ID's response, retried as `retry` does. Raise AzureError."""
        return await self.retry(lambda: self._attempt(sign_in, namespace, attempts), attempts)

    async def _attempt(self, sign_in: SignIn, namespace: str, attempts: Attempts) -> SignInResult:
        """Make one attempt. A cancelled one shows nothing about the endpoint, unless the fetch's time is over."""
        entra = (await self._loader.load())(
            self._open_session(),
            proxy_for=self._proxy_for,
            attempt_seconds=self._attempt_seconds,
            wall_clock=self._wall_clock,
        )
        async with self.permit(namespace, attempts.charged):
            sent = self.clock()
            try:
                # A sign-in that was sent completes: its token is cached, also if no request waits for it any more.
                with attempts.observer.sending():
                    result = await entra.token(sign_in)
            except AzureError as error:
                self._observed(sign_in, sent, error)
                raise
            except asyncio.CancelledError:
                if self.clock() >= attempts.until - CANCEL_SECONDS:
                    late = Unreachable(f"no response from {sign_in.recipient.host} in the remaining time of the fetch")
                    self._observed(sign_in, sent, late)
                raise
            self._observed(sign_in, sent, None)
            return result

    def _observed(self, sign_in: SignIn, sent: float, error: AzureError | None) -> None:
        seconds = self.clock() - sent
        self._observe(seconds, error)
        self._failures.record(sign_in.recipient.url, seconds, error)

    async def retry(
        self,
        call: Callable[[], Awaitable[T]],
        attempts: Attempts,
        *,
        retriable: Callable[[AzureError], bool] = lambda error: not isinstance(error, Refused),
        delays: tuple[float, ...] | None = None,
    ) -> T:
        """Return the result of *call*, retried after *retriable* errors until *attempts.until*.

        *delays* are the seconds before each further attempt, by default RETRY_DELAYS. Raise the last AzureError.
        """
        pauses = iter(self._retry_delays if delays is None else delays)
        while True:
            try:
                return await call()
            except AzureError as error:
                pause = next(pauses, None)
                if pause is None or not retriable(error):
                    raise
                # The jitter keeps the nodes of a cluster from repeating their requests at the same time.
                pause = max(pause * (0.9 + 0.2 * self._random()), error.retry_after or 0.0)
                # The wait for an attempt that cannot end in time would only delay the error.
                if self.clock() + pause >= attempts.until:
                    raise
                attempts.observer.retrying(error)
            await self._sleep(pause)


async def within_time(fetch: Coroutine[Any, Any, T], within: float) -> T:
    """Return the result of *fetch*. Raise Unreachable after *within* seconds."""
    limit = asyncio.timeout(within)
    try:
        async with limit:
            return await fetch
    except TimeoutError:
        if not limit.expired():
            raise
    # Outside the handler: the cancelled fetch refers to the request, and the request to the credential.
    raise Unreachable("no token within the time of the request", code="timeout")


def token_of(result: SignInResult, client_id: str, resource: str) -> Token:
    """Return the token of *result*, Entra ID's response to *client_id*'s request for *resource*."""
    return Token(
        access_token=result.access_token,
        expires_on=result.expires_on,
        not_before=decode_claims(result.access_token).nbf,
        resource=resource,
        client_id=client_id,
        token_type=result.token_type,
        ext_expires_in=result.ext_expires_in,
    )
