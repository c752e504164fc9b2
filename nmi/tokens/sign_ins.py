"""Sign-ins at Entra ID (or AD FS), for every kind of identity that has them: how many at once, and how often again.

What a sign-in is made with is the sources' business; here it is sent, measured, and sent again where that may help.
"""

import asyncio
import random as random_module
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, TypeVar

import aiohttp

from nmi.tokens.claims import claims_of
from nmi.tokens.entra_loader import Loader
from nmi.tokens.places import Places
from nmi.tokens.sign_in import ATTEMPT_SECONDS, CONNECTIONS, ProxyFor, SignedIn, SignIn, no_proxy
from nmi.tokens.source import UNWATCHED, Course
from nmi.tokens.token import Token
from podidentity.azure.errors import AzureError, Refused, Unreachable

T = TypeVar("T")

OF_ONE_NAMESPACE: Final = 4
"""Reads and sign-ins at once for the identities of one namespace, of CONNECTIONS in all: a slow endpoint is theirs."""

RETRY_DELAYS: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds before the second and each later try; a longer Retry-After is obeyed."""

Observe = Callable[[float, AzureError | None], None]
"""Told the seconds and the outcome of each sign-in."""


class Tries(NamedTuple):
    """How long a fetch may go on trying."""

    until: float
    """By the clock of `SignIns`."""
    course: Course = UNWATCHED


class SignIns:
    """One for all sources, so that its bounds are the node's. The session stays its owner's."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        proxy_for: ProxyFor = no_proxy,
        attempt_seconds: float = ATTEMPT_SECONDS,
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
        observe: Observe = lambda _seconds, _error: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """*session* is one of `sign_in.new_session`; *attempt_seconds* is for one sign-in."""
        self._session = session
        self._proxy_for = proxy_for
        self._attempt_seconds = attempt_seconds
        self._retry_delays = retry_delays
        self._observe = observe
        self._wall_clock = wall_clock
        self._random = random
        self._sleep = sleep
        self._loader = Loader()
        self._places = Places(CONNECTIONS, OF_ONE_NAMESPACE)
        self.clock = clock
        """By which every `Tries` is meant."""

    async def load(self) -> None:
        """Bring in now what the first sign-in would have to wait for."""
        await self._loader.load()

    def place(self, namespace: str) -> AbstractAsyncContextManager[None]:
        """Held for each call to Entra ID or to the API server: a flood of fetches must leave others both."""
        return self._places.one(namespace)

    async def token(self, asked: SignIn, namespace: str, tries: Tries) -> SignedIn:
        """What Entra ID answers, tried again as `again` does. Raises AzureError."""
        return await self.again(lambda: self._one(asked, namespace, tries.course), tries)

    async def _one(self, asked: SignIn, namespace: str, course: Course) -> SignedIn:
        """One try. One that the caller gives up is not observed: it says nothing about the endpoint."""
        entra = (await self._loader.load())(
            self._session,
            proxy_for=self._proxy_for,
            attempt_seconds=self._attempt_seconds,
            wall_clock=self._wall_clock,
        )
        async with self.place(namespace):
            sent = self.clock()
            try:
                with course.sending():
                    answer = await entra.token(asked)
            except AzureError as error:
                self._observe(self.clock() - sent, error)
                raise
            self._observe(self.clock() - sent, None)
            return answer

    async def again(
        self,
        call: Callable[[], Awaitable[T]],
        tries: Tries,
        *,
        curable: Callable[[AzureError], bool] = lambda error: not isinstance(error, Refused),
        delays: tuple[float, ...] | None = None,
    ) -> T:
        """What *call* gives, tried again after failures that are *curable*, as long as *tries* lasts.

        *delays* are the seconds before each further try, else RETRY_DELAYS. Raises the AzureError of the last try.
        """
        pauses = iter(self._retry_delays if delays is None else delays)
        while True:
            try:
                return await call()
            except AzureError as error:
                pause = next(pauses, None)
                if pause is None or not curable(error):
                    raise
                pause = max(pause * (0.9 + 0.2 * self._random()), error.retry_after or 0.0)
                if self.clock() + pause >= tries.until:
                    raise
                tries.course.met(error)
            await self._sleep(pause)


async def in_time(fetch: Coroutine[Any, Any, T], within: float) -> T:
    """What *fetch* gives, *within* so many seconds. Raises Unreachable at their end."""
    limit = asyncio.timeout(within)
    try:
        async with limit:
            return await fetch
    except TimeoutError:
        if not limit.expired():
            raise
    # Outside the handler: what was ended holds the request, and the request holds what was proved with.
    raise Unreachable("no token in the time that the request had left", code="timeout")


def token_of(answer: SignedIn, client_id: str, resource: str) -> Token:
    """The token in Entra ID's *answer* to *client_id*'s request for *resource*."""
    return Token(
        access_token=answer.access_token,
        expires_on=answer.expires_on,
        not_before=claims_of(answer.access_token).nbf,
        resource=resource,
        client_id=client_id,
        token_type=answer.token_type,
        ext_expires_in=answer.ext_expires_in,
    )
