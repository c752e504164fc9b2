"""azure-identity, for the node: the one module that imports it (see `nmi.tokens.entra_loader`).

One call is one try: a new credential on the shared transport, asked once and closed, so that no token out of a
library's cache can be taken for another identity's. The pipeline is ours: no retries (`nmi.tokens.sign_ins` has
them), no log of requests, nothing read from the environment, no redirect followed.
"""

import asyncio
import json
import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, quote_plus

import aiohttp
import msgspec
from azure.core.credentials import AccessTokenInfo, TokenRequestOptions
from azure.core.exceptions import AzureError as CoreError
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.core.pipeline.transport import AioHttpTransport
from azure.identity.aio import ClientAssertionCredential, ClientSecretCredential

from nmi.tokens.sign_in import (
    ATTEMPT_SECONDS,
    CONNECT_SECONDS,
    InvalidClient,
    ProxyFor,
    SignedIn,
    SignIn,
    no_proxy,
)
from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from podidentity.telemetry.logs import redacted

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

# What they would say of a failure is another service's sentence, raw, and what is needed of it is in our own lines.
for _library in ("azure", "msal"):
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)

_AADSTS: Final = re.compile(r"AADSTS[0-9]{4,9}")
_TRAILER: Final = re.compile(r"(?:Trace ID|Correlation ID|Timestamp): .*", re.DOTALL)
_ID_MIN: Final = 16
"""Characters. What is shorter than a client id is none, and its removal would spoil a sentence's words."""
_MISREADINGS: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What the library's reading of an answer raises when that is no object, has fields of other types, or is too deep."""


class _Answer(msgspec.Struct):
    """What of an answer's body is used; AD FS and old endpoints send numbers as strings."""

    access_token: str = ""
    expires_in: str | int | None = None
    ext_expires_in: str | int | None = None
    error: str = ""
    error_description: str = ""
    correlation_id: str = ""


_answers: Final = msgspec.json.Decoder(_Answer)


class _Policy(SansIOHTTPPolicy[Any, Any]):
    """Gives the transport its limits and its proxy, and keeps the answer in sight: exceptions tell too little of it."""

    def __init__(self, url: str, proxy: str) -> None:
        self._url = url
        self._proxy = proxy
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    @override
    def on_request(self, request: PipelineRequest[Any]) -> None:
        request.http_request.url = self._url  # the library asks AD FS, too, for version 2
        options = request.context.options
        options.clear()  # they are for the library's own policies, of which none is here
        options["connection_timeout"], options["read_timeout"] = CONNECT_SECONDS, ATTEMPT_SECONDS
        if self._proxy:
            options["proxy"] = self._proxy

    @override
    def on_response(self, request: PipelineRequest[Any], response: PipelineResponse[Any, Any]) -> None:
        answer = response.http_response
        self.status, self.body = answer.status_code, answer.content
        self.headers = {str(name).lower(): str(value) for name, value in answer.headers.items()}


class Entra:
    """Asks whatever authority it is told to, once for each call. The session stays its owner's."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        proxy_for: ProxyFor = no_proxy,
        attempt_seconds: float = ATTEMPT_SECONDS,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._transport = AioHttpTransport(session=session, session_owner=False, use_env_settings=False)
        self._proxy_for = proxy_for
        self._attempt_seconds = attempt_seconds
        self._wall_clock = wall_clock

    async def token(self, asked: SignIn) -> SignedIn:
        """A token. Raises AzureError, InvalidClient where what the application proved itself with is not valid."""
        policy = _Policy(asked.token_url, self._proxy_for(asked.authority))
        failure: AzureError
        try:
            async with asyncio.timeout(self._attempt_seconds):
                info = await self._ask(asked, policy)
            return self._signed_in(info, policy)
        except TimeoutError:
            failure = Unreachable(f"no answer from {asked.authority.host} in time", code="timeout")
        except (CoreError, OSError) as error:
            failure = _failure(asked, policy, error)
        except _MISREADINGS as error:
            if policy.status == 0:
                raise
            failure = _failure(asked, policy, error)
        # Outside the handlers: the library's errors hold the request, and the request holds the secret.
        raise failure

    async def _ask(self, asked: SignIn, policy: _Policy) -> AccessTokenInfo:
        options: dict[str, Any] = {
            "authority": asked.authority.url,
            "transport": self._transport,
            "policies": [policy],
        }
        credential: ClientSecretCredential | ClientAssertionCredential
        if asked.secret:
            credential = ClientSecretCredential(asked.tenant, asked.client_id, asked.secret, **options)
        else:
            credential = ClientAssertionCredential(asked.tenant, asked.client_id, lambda: asked.assertion, **options)
        request: TokenRequestOptions = {"enable_cae": False}
        if capabilities := [each for part in asked.xms_cc.split(",") if (each := part.strip())]:
            # What enable_cae would say of CP1 alone: the client's own list, as MSAL sends it.
            request["claims"] = json.dumps({"access_token": {"xms_cc": {"values": capabilities}}})
        async with credential:
            return await credential.get_token_info(f"{asked.resource}/.default", options=request)

    def _signed_in(self, info: AccessTokenInfo, policy: _Policy) -> SignedIn:
        """Raises ValueError for what no token answer may be."""
        token: Any = info.token
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise ValueError("access_token")
        answer = _read(policy.body)
        told, extended = _number(answer.expires_in), _number(answer.ext_expires_in)
        return SignedIn(
            access_token=token,
            expires_on=info.expires_on,
            expires_in=told if told is not None else max(0, int(info.expires_on - self._wall_clock())),
            ext_expires_in="" if extended is None else str(extended),
            token_type=info.token_type if info.token_type.isalnum() else "Bearer",
        )


def _read(body: bytes) -> _Answer:
    try:
        return _answers.decode(body)
    except (ValueError, RecursionError):
        return _Answer()


def _number(value: str | int | None) -> int | None:
    text = "" if value is None else str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def _failure(asked: SignIn, policy: _Policy, error: Exception) -> AzureError:
    """What went wrong, in our terms. *error* itself is not quoted: it may hold what was sent or what came."""
    host = asked.authority.host
    if policy.status == 0:
        return Unreachable(f"no whole answer from {host} ({type(error).__name__})", code="no_answer")
    told = _read(policy.body)
    if policy.status == 200 and not told.error:
        return AzureError(f"{host} gave no token answer ({type(error).__name__})", status=200, code="bad_answer")
    sentence, name = _told(asked, told.error_description), _told(asked, told.error)
    number = _AADSTS.search(sentence)
    kind: type[AzureError] = Refused
    if policy.status == 429:
        kind = Throttled
    elif policy.status >= 500 or policy.status == 408 or told.error == "temporarily_unavailable":
        kind = AzureError
    elif told.error == "invalid_client":
        kind = InvalidClient
    return kind(
        sentence or name or f"{host} answered with status {policy.status}",
        status=policy.status,
        code=number[0] if number else name,
        retry_after=_seconds(policy.headers.get("retry-after", "")),
        correlation_id=_told(asked, told.correlation_id or policy.headers.get("x-ms-request-id", "")),
    )


def _told(asked: SignIn, sentence: str) -> str:
    """*sentence* without its trailer of ids, with the client id redacted and whatever was sent in secret taken out."""
    for sent in (asked.secret, asked.assertion):
        for spelling in {sent, quote(sent), quote_plus(sent)} - {""}:
            sentence = sentence.replace(spelling, "<removed>")
    if len(asked.client_id) >= _ID_MIN:
        sentence = re.sub(re.escape(asked.client_id), redacted(asked.client_id), sentence, flags=re.IGNORECASE)
    without = _TRAILER.sub("", sentence)
    return without.rstrip() if len(without) < len(sentence) else sentence


def _seconds(retry_after: str) -> float | None:
    """Retry-After in seconds, at most an hour; the form with a date is not Entra ID's and counts as absent."""
    text = retry_after.strip()
    return min(float(text), 3600.0) if text.isascii() and text.isdigit() else None
