"""Raw tokens from the VM's Instance Metadata Service: azure-identity drops fields that pods need.

One call of `ImdsSource.token` makes attempts by Azure's guidance: 5 attempts at about 0, 2, 6, 14 and 30 seconds, later
if Retry-After is longer, and repeated for up to 70 seconds of 410. Each attempt first acquires the caller's permit, so
that the governor of IMDS calls counts every one. Caching and sharing are in `nmi.tokens.broker`.

Source: MicrosoftDocs, "How to use managed identities … to acquire an access token" and "Azure Instance Metadata
Service".
"""

import asyncio
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from podidentity.azure.errors import AzureError, CameBack, NotSent, Paused, Refused, Unreachable
from podidentity.azure.imds_responses import ImdsToken, Reply, failure_in, token_in
from podidentity.hidden_fields import HidingStruct
from podidentity.http_client.errors import HttpClientError

if TYPE_CHECKING:  # podidctl imports this module without NMI's extra
    from podidentity.http_client.connection import Response
    from podidentity.http_client.session import HttpSession

TOKEN_PATH: Final = "/metadata/identity/oauth2/token"  # noqa: S105
API_VERSION: Final = "2018-02-01"

RESPONSE_MAX: Final = 64 * 1024
"""Bytes. A token with every optional claim and group stays under 16 KiB."""

PASSED_ON_HEADERS: Final = ("Retry-After", "x-ms-request-id")

ATTEMPT_SECONDS: Final = 10.0
"""Time limit of one attempt, including the connection. A first token can take seconds, one from IMDS's cache
milliseconds.
"""

RETRY_DELAYS: Final = (2.0, 4.0, 8.0, 16.0)
"""Seconds before the second and each later attempt."""

GONE_SECONDS: Final = 70.0
"""Time from the first 410 in which IMDS may be updating, as documented; after it the call fails."""
GONE_PAUSE_MAX_SECONDS: Final = 10.0
"""Maximum pause between two attempts during that time."""

PATIENCE_SECONDS: Final = 10.0
"""Maximum Retry-After that is waited for here. A longer one is passed to the caller, which may pass it to the pod."""

LAG_DELAYS: Final = (0.5, 1.0, 1.0, 1.5, 2.0)
"""Seconds between attempts while IMDS has not received an update of Resource Manager; the last one repeats."""

IDENTITY_PARAMETERS: Final = ("client_id", "object_id", "msi_res_id")
"""Parameters that name an identity."""
_SAFE: Final = "?/:@!$'()*,"
"""Characters of a parameter that need no encoding (RFC 3986 §3.4), with the letters and digits."""

NO_RESPONSE_CODE: Final = "no_answer"
"""Code of an Unreachable after the time limit of an attempt, or after a refused or lost connection."""

Permit = Callable[[], AbstractAsyncContextManager[object]]
"""Permit of one attempt: entered before it and left after it."""

ImdsObserver = Callable[[bool, float, AzureError | None], None]
"""Callback for each attempt: whether it named an identity, its duration in seconds, and its error."""


class RawResponse(HidingStruct, frozen=True):
    """IMDS's response for a pod that receives it unchanged: pods under an exception, and MIC's own pods."""

    hidden = frozenset({"body"})

    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()
    """Retry-After and request ids, if IMDS sent them; names and values are plain ASCII."""


class ImdsSource:
    """Token endpoint of one IMDS. Stateless between calls. The caller owns the session."""

    def __init__(
        self,
        session: "HttpSession",
        base_url: str,
        *,
        attempt_seconds: float = ATTEMPT_SECONDS,
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
        observe: ImdsObserver = lambda _named, _seconds, _error: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._url = base_url.rstrip("/") + TOKEN_PATH
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
        permit: Permit = nullcontext,
    ) -> ImdsToken:
        """Return a token for *resource*, of the named identity, or of the VM's own identity if none is named.

        No attempt begins and no pause continues after *within* seconds, except for a 410, which is retried for
        GONE_SECONDS. For *lag_seconds* "Identity not found" counts as a delay between Resource Manager and IMDS and is
        retried. Raises the AzureError of the last attempt.
        """
        query = _query(resource, client_id, object_id, resource_id, xms_cc, bypass_cache=bypass_cache)
        policy = RetryPolicy(self._retry_delays, within, lag_seconds, self._clock(), self._random)
        while True:
            try:
                return await self._attempt(query, permit, policy.until - self._clock())
            except AzureError as error:
                pause = policy.pause_after(error, self._clock())
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
        permit: Permit = nullcontext,
    ) -> RawResponse:
        """Return IMDS's response to one attempt, with any status, *within* this time in seconds including the wait
        for the permit.

        The permit receives a response without a token as an error. Raises Unreachable without a response, AzureError
        for one over RESPONSE_MAX, CameBack, and errors of the permit.
        """
        query = _query(resource, client_id, object_id, resource_id, xms_cc, bypass_cache=bypass_cache)
        reply: Reply | None = None
        try:
            async with self._attempt_context(query, permit, within):
                reply = await self._exchange(query)
                if reply.status != 200:
                    raise failure_in(query, reply)
        # It is not IMDS's response, and only that is passed on.
        except CameBack:
            raise
        except AzureError:
            if reply is None:
                raise
        if reply is None:
            raise AssertionError("neither a response nor an error")
        headers = tuple((name, value) for name in PASSED_ON_HEADERS if (value := reply.header(name)))
        return RawResponse(reply.status, reply.body, reply.header("Content-Type"), headers)

    async def _attempt(self, query: Mapping[str, str], permit: Permit, seconds: float) -> ImdsToken:
        async with self._attempt_context(query, permit, seconds):
            reply = await self._exchange(query)
            if reply.status != 200:
                raise failure_in(query, reply)
            return token_in(reply, self._wall_clock())

    @asynccontextmanager
    async def _attempt_context(self, query: Mapping[str, str], permit: Permit, seconds: float) -> AsyncIterator[None]:
        """Context of one request with *query*; *seconds* include the wait for the permit."""
        limit = asyncio.timeout(max(seconds, 0.0))
        sent: float | None = None
        try:
            async with limit, permit():
                sent = self._clock()
                with self._observed(query):
                    yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            late = Unreachable("no response in the remaining time of the request", code="timeout")
            # The wait for the permit alone shows nothing about IMDS.
            if sent is not None:
                self._observe(_names_identity(query), self._clock() - sent, late)
            raise late from error

    @contextmanager
    def _observed(self, query: Mapping[str, str]) -> Iterator[None]:
        """Report the attempt. A cancelled attempt is not reported, because it has no result."""
        named, sent = _names_identity(query), self._clock()
        try:
            yield
        except AzureError as error:
            self._observe(named, self._clock() - sent, error)
            raise
        self._observe(named, self._clock() - sent, None)

    async def _exchange(self, query: Mapping[str, str]) -> Reply:
        """Return the whole response to one request, with any status."""
        try:
            async with asyncio.timeout(self._attempt_seconds):
                response = await self._session.request(
                    "GET",
                    f"{self._url}?{urlencode(query, safe=_SAFE)}",
                    headers={"Metadata": "true", "Accept": "application/json", "Accept-Encoding": "identity"},
                )
                try:
                    return Reply(response.status, await _read_limited(response), response.headers)
                finally:
                    response.close()
        except (HttpClientError, TimeoutError, OSError) as error:
            # The library's text may contain the URL, so only its class is used.
            raise Unreachable(f"no complete response ({type(error).__name__})", code=NO_RESPONSE_CODE) from error


def _query(
    resource: str, client_id: str, object_id: str, resource_id: str, xms_cc: str, *, bypass_cache: bool
) -> Mapping[str, str]:
    """Return the parameters of a request. Raises ValueError for more than one identity."""
    named = {
        name: value
        for name, value in zip(IDENTITY_PARAMETERS, (client_id, object_id, resource_id), strict=True)
        if value
    }
    if len(named) > 1:
        raise ValueError("IMDS accepts only one of client_id, object_id and resource_id")
    query = {"api-version": API_VERSION, "resource": resource, **named}
    if xms_cc:
        query["xms_cc"] = xms_cc
    if bypass_cache:
        query["bypass_cache"] = "true"
    return query


def _names_identity(query: Mapping[str, str]) -> bool:
    return any(name in query for name in IDENTITY_PARAMETERS)


class RetryPolicy:
    """Retry policy of one call. Reads no clock."""

    def __init__(
        self,
        delays: tuple[float, ...],
        within: float,
        lag_seconds: float,
        started: float,
        random: Callable[[], float],
    ) -> None:
        """*delays* are before the second and each later attempt, by the clock of *started*; if empty, there is one
        attempt.
        """
        self.until = started + within
        """Deadline of the current attempt; extended after a 410 of IMDS."""
        self._delays = delays
        self._within = self.until
        self._lag_until = started + lag_seconds
        self._random = random
        self._failures = 0
        self._lags = 0
        self._gone = 0
        self._gone_until: float | None = None

    def pause_after(self, error: AzureError, now: float) -> float | None:
        """Return seconds until the next attempt, or None if *error* is final."""
        # Before the test for `Refused`, of which this is one: it ends when IMDS has received the update.
        if is_identity_not_found(error):
            pause = LAG_DELAYS[min(self._lags, len(LAG_DELAYS) - 1)]
            self._lags += 1
            return pause if now + pause <= min(self._lag_until, self._within) else None
        if isinstance(error, Refused | NotSent | Paused | CameBack) or not self._delays:
            return None
        if error.status == 410:
            return self._pause_while_gone(error, now)
        if self._failures == len(self._delays) or (error.retry_after or 0.0) > PATIENCE_SECONDS:
            return None
        pause = max(self._delays[self._failures] * self._jitter(), error.retry_after or 0.0)
        self._failures += 1
        return pause if now + pause < self._within else None

    def _pause_while_gone(self, error: AzureError, now: float) -> float | None:
        """Return the pause during an update of the endpoint; one attempt always follows after GONE_SECONDS."""
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
    """Return whether IMDS reports that the VM lacks the identity, as it does until it has received a new assignment."""
    return isinstance(error, Refused) and error.status == 400 and "identity not found" in error.message.lower()


async def _read_limited(response: "Response") -> bytes:
    body = bytearray()
    while chunk := await response.readany():
        body += chunk
        if len(body) > RESPONSE_MAX:
            raise AzureError(f"a response of more than {RESPONSE_MAX} bytes", code="answer_too_large")
    return bytes(body)
