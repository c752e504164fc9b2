"""Tokens from the VM's Instance Metadata Service, raw: azure-identity drops fields that pods need.

One call of `ImdsSource.token` is one series of tries as Azure's guidance has them (5 tries at about 0, 2, 6, 14 and
30 seconds, a longer Retry-After obeyed), inside the caller's time. Each try first takes the caller's slot, so that
whoever governs calls to IMDS counts every one. Nothing is cached or shared here: that is `nmi.tokens.broker`.

Facts about IMDS: MicrosoftDocs, "How to use managed identities … to acquire an access token" and "Azure Instance
Metadata Service".
"""

import asyncio
import random as random_module
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from podidentity.azure.errors import AzureError, NotYet, Refused, Throttled, Unreachable
from podidentity.telemetry.logs import redacted

TOKEN_PATH: Final = "/metadata/identity/oauth2/token"  # noqa: S105
API_VERSION: Final = "2018-02-01"

ANSWER_MAX: Final = 64 * 1024
"""Bytes. A token with every optional claim and group stays under 16 KiB."""

ATTEMPT_SECONDS: Final = 10.0
"""For one try, connecting included. A first token may take a few seconds, one from the cache of IMDS milliseconds."""

RETRY_DELAYS: Final = (2.0, 4.0, 8.0, 16.0)
"""Seconds before the second and each later try."""

ID_MIN: Final = 16
"""Characters. A client id has 36; what is much shorter is none, and its removal would spoil a sentence's words."""

LAG_DELAYS: Final = (0.5, 1.0, 1.0, 1.5, 2.0)
"""Seconds between tries while IMDS lags behind Resource Manager; the last one repeats."""

Slot = Callable[[], AbstractAsyncContextManager[object]]
"""Entered for each try, left when the try is over."""

Observe = Callable[[float, AzureError | None], None]
"""Told the seconds and the outcome of each try."""


@dataclass(frozen=True, slots=True)
class ImdsToken:
    """IMDS's answer. *expires_on* and *not_before* are Unix seconds, *expires_in* seconds from the answer's arrival."""

    access_token: str = field(repr=False)
    expires_on: int
    expires_in: int
    not_before: int
    resource: str
    client_id: str = field(repr=False)
    object_id: str = field(repr=False)
    token_type: str
    refresh_token: str = field(repr=False)
    ext_expires_in: str


class _Answer(msgspec.Struct):
    """The body of a 200 as it comes: IMDS sends strings, its emulations also numbers."""

    access_token: str
    expires_on: str | int | None = None
    expires_in: str | int | None = None
    ext_expires_in: str | int | None = None
    not_before: str | int | None = None
    resource: str = ""
    client_id: str = ""
    object_id: str = ""
    token_type: str = "Bearer"  # noqa: S105
    refresh_token: str | None = None


class _Error(msgspec.Struct):
    error: str = ""
    error_description: str = ""


_answers: Final = msgspec.json.Decoder(_Answer)
_errors: Final = msgspec.json.Decoder(_Error)


class ImdsSource:
    """The token endpoint of one IMDS. Holds no state between calls; the session stays its owner's."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        attempt_seconds: float = ATTEMPT_SECONDS,
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
        observe: Observe = lambda _seconds, _error: None,
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

        No try begins, and no pause goes on, past *within* seconds. For *lag_seconds* "Identity not found" is taken for
        IMDS lagging behind Resource Manager and tried again. Raises the AzureError of the last try.
        """
        selectors = {"client_id": client_id, "object_id": object_id, "msi_res_id": resource_id}
        named = {name: value for name, value in selectors.items() if value}
        if len(named) > 1:
            raise ValueError("IMDS takes one of client_id, object_id and resource_id")
        query = {"api-version": API_VERSION, "resource": resource, **named}
        if xms_cc:
            query["xms_cc"] = xms_cc
        if bypass_cache:
            query["bypass_cache"] = "true"
        url = self._url.with_query(query)

        started = self._clock()
        failures = lags = 0
        while True:
            try:
                return await self._try(url, slot, within - (self._clock() - started))
            except AzureError as error:
                elapsed = self._clock() - started
                if is_identity_not_found(error):
                    pause = LAG_DELAYS[min(lags, len(LAG_DELAYS) - 1)]
                    lags += 1
                    if elapsed + pause > lag_seconds:
                        raise
                elif isinstance(error, Refused) or failures == len(self._retry_delays):
                    raise
                else:
                    pause = self._retry_delays[failures] * (0.9 + 0.2 * self._random())
                    pause = max(pause, error.retry_after or 0.0)
                    failures += 1
                if elapsed + pause >= within:
                    raise
            await self._sleep(pause)

    async def _try(self, url: URL, slot: Slot, seconds: float) -> ImdsToken:
        """One request; *seconds* cover the wait for the slot too."""
        limit = asyncio.timeout(max(seconds, 0.0))
        try:
            async with limit, slot():
                return await self._measured(url)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unreachable("no answer in the time that the request had left", code="timeout") from error

    async def _measured(self, url: URL) -> ImdsToken:
        """A try that the caller gives up is not observed: it says nothing about IMDS."""
        sent = self._clock()
        try:
            token = await self._get(url)
        except AzureError as error:
            self._observe(self._clock() - sent, error)
            raise
        self._observe(self._clock() - sent, None)
        return token

    async def _get(self, url: URL) -> ImdsToken:
        try:
            async with self._session.get(
                url,
                headers={"Metadata": "true", "Accept": "application/json", "Accept-Encoding": "identity"},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._attempt_seconds),
            ) as response:
                status, headers = response.status, response.headers
                body = await _bounded(response.content)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The library's own text may repeat the URL: its class says enough.
            raise Unreachable(f"no whole answer ({type(error).__name__})", code="no_answer") from error
        if status == 200:
            return self._read(body)
        raise _failure(url, status, body, headers.get("Retry-After", ""), headers.get("x-ms-request-id", ""))

    def _read(self, body: bytes) -> ImdsToken:
        try:
            answer = _answers.decode(body)
            return _strict(answer, self._wall_clock())
        except ValueError as error:
            # Neither the cause nor its text goes along: a decoder may quote its input, and this input holds a token.
            raise AzureError(f"not a token answer ({type(error).__name__})", status=200, code="bad_answer") from None


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


def _strict(answer: _Answer, now: float) -> ImdsToken:
    """*answer* with numbers as numbers. Raises ValueError for what no token answer may be."""
    if not answer.access_token or not answer.access_token.isascii() or not answer.access_token.isprintable():
        raise ValueError("access_token")
    expires_on, expires_in = _number(answer.expires_on), _number(answer.expires_in)
    if expires_on is None and expires_in is None:
        raise ValueError("no expiry")
    if expires_on is None:
        expires_on = int(now) + (expires_in or 0)
    if expires_in is None:
        expires_in = max(0, expires_on - int(now))
    return ImdsToken(
        access_token=answer.access_token,
        expires_on=expires_on,
        expires_in=expires_in,
        not_before=_number(answer.not_before) or 0,
        resource=answer.resource,
        client_id=answer.client_id,
        object_id=answer.object_id,
        token_type=answer.token_type or "Bearer",
        refresh_token=answer.refresh_token or "",
        ext_expires_in="" if answer.ext_expires_in is None else str(_number(answer.ext_expires_in) or 0),
    )


def _number(value: str | int | None) -> int | None:
    """Whole seconds, or None for nothing. Raises ValueError for anything but up to 12 digits."""
    if value is None or value == "":
        return None
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ValueError("a time that is no number")
    return int(text)


def _without_ids(sentence: str, url: URL) -> str:
    """*sentence* with the ids that were asked for redacted: Azure repeats them, and its sentences get logged."""
    for name in ("client_id", "object_id"):
        asked = url.query.get(name, "")
        if len(asked) >= ID_MIN:
            sentence = re.sub(re.escape(asked), redacted(asked), sentence, flags=re.IGNORECASE)
    return sentence


def _failure(url: URL, status: int, body: bytes, retry_after: str, correlation_id: str) -> AzureError:
    try:
        told = _errors.decode(body)
    except ValueError:
        told = _Error()
    kind: type[AzureError] = AzureError
    if status in {404, 410}:
        kind = NotYet
    elif status == 429:
        kind = Throttled
    elif 400 <= status < 500 and status != 408:
        kind = Refused
    return kind(
        _without_ids(told.error_description, url) or told.error or f"status {status}",
        status=status,
        code=told.error,
        retry_after=_seconds(retry_after),
        correlation_id=correlation_id,
    )


def _seconds(retry_after: str) -> float | None:
    """Retry-After in seconds, at most an hour; the form with a date is not IMDS's and counts as absent."""
    text = retry_after.strip()
    return min(float(text), 3600.0) if text.isascii() and text.isdigit() else None
