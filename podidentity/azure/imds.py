"""Tokens from the VM's Instance Metadata Service, raw: azure-identity drops fields that pods need.

One call of `ImdsSource.token` is one series of tries as Azure's guidance has them (5 tries at about 0, 2, 6, 14 and
30 seconds, a longer Retry-After obeyed, up to 70 seconds of 410 outlasted). Each try first takes the caller's slot, so
that whoever governs calls to IMDS counts every one. Nothing is cached or shared here: that is `nmi.tokens.broker`.

Facts about IMDS: MicrosoftDocs, "How to use managed identities … to acquire an access token" and "Azure Instance
Metadata Service".
"""

import asyncio
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from yarl import URL

from podidentity.azure.errors import AzureError, NotSent, Paused, Refused, Unreachable
from podidentity.azure.imds_answers import ImdsToken, Reply, failure_in, token_in

TOKEN_PATH: Final = "/metadata/identity/oauth2/token"  # noqa: S105
API_VERSION: Final = "2018-02-01"

ANSWER_MAX: Final = 64 * 1024
"""Bytes. A token with every optional claim and group stays under 16 KiB."""

PASSED_ON: Final = ("Retry-After", "x-ms-request-id")

ATTEMPT_SECONDS: Final = 10.0
"""For one try, connecting included. A first token may take a few seconds, one from the cache of IMDS milliseconds."""

RETRY_DELAYS: Final = (2.0, 4.0, 8.0, 16.0)
"""Seconds before the second and each later try."""

GONE_SECONDS: Final = 70.0
"""For so long after its first 410 IMDS may be updating, as documented; then it has failed."""
GONE_PAUSE_MAX_SECONDS: Final = 10.0
"""The longest pause between two tries meanwhile."""

PATIENCE_SECONDS: Final = 10.0
"""The longest Retry-After that is waited out here; of a longer one the caller is told, who may tell the pod."""

LAG_DELAYS: Final = (0.5, 1.0, 1.0, 1.5, 2.0)
"""Seconds between tries while IMDS lags behind Resource Manager; the last one repeats."""

SELECTORS: Final = ("client_id", "object_id", "msi_res_id")
"""The parameters that name an identity."""

NO_ANSWER: Final = "no_answer"
"""The code of an Unreachable when a whole try has passed, or the connection was refused or lost."""

Slot = Callable[[], AbstractAsyncContextManager[object]]
"""Entered for each try, left when the try is over."""

Observe = Callable[[bool, float, AzureError | None], None]
"""Told of each try whether it named an identity, the seconds that it took, and how it ended."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What IMDS answered, for a pod that may read it as it came: pods under an exception, and MIC's own."""

    status: int
    body: bytes = field(repr=False)
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()
    """Retry-After and request ids, where IMDS gave any; names and values are plain ASCII."""


class ImdsSource:
    """The token endpoint of one IMDS. Holds no state between calls; the session stays its owner's."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        attempt_seconds: float = ATTEMPT_SECONDS,
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
        observe: Observe = lambda _named, _seconds, _error: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._url = URL(base_url).with_path(TOKEN_PATH)
        self._attempt_seconds = attempt_seconds
        self._retry_delays = retry_delays
        self._observe = observe
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random
        self._sleep = sleep

    async def token(
        self,
        resource: str,
        *,
        client_id: str = "",
        object_id: str = "",
        resource_id: str = "",
        xms_cc: str = "",
        bypass_cache: bool = False,
        within: float = 45.0,
        lag_seconds: float = 0.0,
        slot: Slot = nullcontext,
    ) -> ImdsToken:
        """A token for *resource*, of the one identity that is named, or of the VM's own if none is.

        No try begins, and no pause goes on, past *within* seconds, but for a 410: that is outlasted for GONE_SECONDS.
        For *lag_seconds* "Identity not found" is taken for IMDS lagging behind Resource Manager and tried again. Raises
        the AzureError of the last try.
        """
        url = self._asking(resource, client_id, object_id, resource_id, xms_cc, bypass_cache=bypass_cache)
        tries = Tries(self._retry_delays, within, lag_seconds, self._clock(), self._random)
        while True:
            try:
                return await self._try(url, slot, tries.until - self._clock())
            except AzureError as error:
                pause = tries.pause_after(error, self._clock())
                if pause is None:
                    raise
            await self._sleep(pause)

    async def raw(
        self,
        resource: str,
        *,
        client_id: str = "",
        object_id: str = "",
        resource_id: str = "",
        xms_cc: str = "",
        bypass_cache: bool = False,
        within: float,
        slot: Slot = nullcontext,
    ) -> RawAnswer:
        """What IMDS answers to one try, whatever its status, *within* so many seconds, the wait for the slot included.

        The slot sees an answer that is no token as the error that it is. Raises Unreachable if none came, AzureError
        for one over ANSWER_MAX, and what *slot* raises.
        """
        url = self._asking(resource, client_id, object_id, resource_id, xms_cc, bypass_cache=bypass_cache)
        reply: Reply | None = None
        try:
            async with self._one_try(url, slot, within):
                reply = await self._exchange(url)
                if reply.status != 200:
                    raise failure_in(url, reply)
        except AzureError:
            if reply is None:
                raise
        if reply is None:
            raise AssertionError("neither an answer nor an error")
        headers = tuple((name, value) for name in PASSED_ON if (value := reply.header(name)))
        return RawAnswer(reply.status, reply.body, reply.header("Content-Type"), headers)

    def _asking(
        self, resource: str, client_id: str, object_id: str, resource_id: str, xms_cc: str, *, bypass_cache: bool
    ) -> URL:
        """Raises ValueError when more than one identity is named."""
        named = {
            name: value for name, value in zip(SELECTORS, (client_id, object_id, resource_id), strict=True) if value
        }
        if len(named) > 1:
            raise ValueError("IMDS takes one of client_id, object_id and resource_id")
        query = {"api-version": API_VERSION, "resource": resource, **named}
        if xms_cc:
            query["xms_cc"] = xms_cc
        if bypass_cache:
            query["bypass_cache"] = "true"
        return self._url.with_query(query)

    async def _try(self, url: URL, slot: Slot, seconds: float) -> ImdsToken:
        async with self._one_try(url, slot, seconds):
            reply = await self._exchange(url)
            if reply.status != 200:
                raise failure_in(url, reply)
            return token_in(reply, self._wall_clock())

    @asynccontextmanager
    async def _one_try(self, url: URL, slot: Slot, seconds: float) -> AsyncIterator[None]:
        """What one request to *url* happens in; *seconds* cover the wait for the slot too."""
        limit = asyncio.timeout(max(seconds, 0.0))
        try:
            async with limit, slot():
                with self._observed(url):
                    yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unreachable("no answer in the time that the request had left", code="timeout") from error

    @contextmanager
    def _observed(self, url: URL) -> Iterator[None]:
        """A try that the caller gives up is not observed: it says nothing about IMDS."""
        named = any(name in url.query for name in SELECTORS)
        sent = self._clock()
        try:
            yield
        except AzureError as error:
            self._observe(named, self._clock() - sent, error)
            raise
        self._observe(named, self._clock() - sent, None)

    async def _exchange(self, url: URL) -> Reply:
        """One request and its whole answer, of whatever status."""
        try:
            async with self._session.get(
                url,
                headers={"Metadata": "true", "Accept": "application/json", "Accept-Encoding": "identity"},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._attempt_seconds),
            ) as response:
                return Reply(response.status, await _bounded(response.content), response.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The library's own text may repeat the URL: its class says enough.
            raise Unreachable(f"no whole answer ({type(error).__name__})", code=NO_ANSWER) from error


class Tries:
    """When one series of tries goes on, and when it has failed. Reads no clock."""

    def __init__(
        self,
        delays: tuple[float, ...],
        within: float,
        lag_seconds: float,
        started: float,
        random: Callable[[], float],
    ) -> None:
        """*delays* before the second and each later try, by the clock of *started*; without any there is one try."""
        self.until = started + within
        """When the present try must have ended; later once IMDS has said 410."""
        self._delays = delays
        self._within = self.until
        self._lag_until = started + lag_seconds
        self._random = random
        self._failures = 0
        self._lags = 0
        self._gone = 0
        self._gone_until: float | None = None

    def pause_after(self, error: AzureError, now: float) -> float | None:
        """Seconds until the next try; None when *error* is the last word."""
        if is_identity_not_found(error):
            pause = LAG_DELAYS[min(self._lags, len(LAG_DELAYS) - 1)]
            self._lags += 1
            return pause if now + pause <= min(self._lag_until, self._within) else None
        if isinstance(error, Refused | NotSent | Paused) or not self._delays:
            return None
        if error.status == 410:
            return self._outlast(error, now)
        if self._failures == len(self._delays) or (error.retry_after or 0.0) > PATIENCE_SECONDS:
            return None
        pause = max(self._delays[self._failures] * self._jitter(), error.retry_after or 0.0)
        self._failures += 1
        return pause if now + pause < self._within else None

    def _outlast(self, error: AzureError, now: float) -> float | None:
        """An endpoint that is updating is back when it is back: there is always one try after GONE_SECONDS."""
        if self._gone_until is None:
            self._gone_until = now + GONE_SECONDS
            self.until = max(self.until, self._gone_until + ATTEMPT_SECONDS)
        left = self._gone_until - now
        if left <= 0.0:
            return None
        pause = min(self._delays[min(self._gone, len(self._delays) - 1)], GONE_PAUSE_MAX_SECONDS) * self._jitter()
        self._gone += 1
        return min(max(pause, error.retry_after or 0.0), max(left, 1.0))

    def _jitter(self) -> float:
        return 0.9 + 0.2 * self._random()


def is_identity_not_found(error: AzureError) -> bool:
    """Whether IMDS says that the VM has no such identity: what it answers until it has heard of a new assignment."""
    return isinstance(error, Refused) and error.status == 400 and "identity not found" in error.message.lower()


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > ANSWER_MAX:
            raise AzureError(f"an answer of more than {ANSWER_MAX} bytes", code="answer_too_large")
    return bytes(body)
