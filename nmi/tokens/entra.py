"""Sign-ins through azure-identity. The only module that imports it (see `nmi.tokens.entra_loader`).

One call is one attempt: it creates a credential on the shared transport, uses it once and closes it, so that no token
in a library's cache can be mistaken for another identity's. The pipeline contains our policy only: no retries
(`nmi.tokens.sign_ins` has them), no request log, no settings from the environment, no redirects.
"""

import asyncio
import json
import logging
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterator
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

from nmi.tokens.proxy_refusals import API_SERVER_CODE
from nmi.tokens.sign_in import (
    ATTEMPT_SECONDS,
    CONNECT_SECONDS,
    CONNECTIONS,
    InvalidClient,
    ProxyFor,
    SignIn,
    SignInResult,
    no_proxy,
)
from nmi.tokens.token_proxy import ProxyFailed, ProxyTarget, ProxyThrottled, ProxyUnreachable
from podidentity.azure.errors import (
    MESSAGE_MAX,
    AzureError,
    Refused,
    Throttled,
    Unreachable,
    correlation_in,
    retry_after_seconds,
    sentence_in,
)
from podidentity.telemetry.logs import redact_id

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

# The libraries log another service's error text unfiltered. Our own log lines contain the needed part.
for _library in ("azure", "msal"):
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)

RESPONSE_BYTES_MAX: Final = 64 * 1024
"""Bytes. A token with every optional claim and group stays under 16 KiB."""

WRAPPED_MAX: Final = 8
"""Exceptions that wrap each other, as far as `cause_of` reads them."""

_AADSTS: Final = re.compile(r"AADSTS[0-9]{4,9}")
_MISREADINGS: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""The library's exceptions for a response that is not an object, has fields of other types, or is nested too deep."""


class BoundedResponse(aiohttp.ClientResponse):
    """A response whose body is read up to RESPONSE_BYTES_MAX only."""

    @override
    async def read(self) -> bytes:
        """Return the whole body. Raise ClientPayloadError if it is too long."""
        body = bytearray()
        async for chunk in self.content.iter_any():
            body += chunk
            if len(body) > RESPONSE_BYTES_MAX:
                self.close()
                raise aiohttp.ClientPayloadError(f"a response of more than {RESPONSE_BYTES_MAX} bytes")
        return bytes(body)


def new_session(
    user_agent: str, connector: aiohttp.TCPConnector | None = None, *, trust: ssl.SSLContext | None = None
) -> aiohttp.ClientSession:
    """Return a session for sign-ins only. The caller closes it. It ignores the environment.

    *trust* replaces the CA certificates that the machine trusts. *connector* is for tests; the session owns it.
    """
    return aiohttp.ClientSession(
        connector=connector or aiohttp.TCPConnector(limit=CONNECTIONS, ssl=trust or True),
        response_class=BoundedResponse,
        # No sign-in may depend on a cookie from that of another identity.
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"},
        trust_env=False,
    )


class _TokenResponse(msgspec.Struct):
    """The used fields of a response body. AD FS and old endpoints send numbers as strings."""

    access_token: str = ""
    expires_in: str | int | None = None
    ext_expires_in: str | int | None = None
    error: str = ""
    error_description: str = ""
    correlation_id: str = ""
    kind: str = ""
    message: str = ""
    """With the kind Status: the API server's own response, if it receives what is meant for a token proxy."""


_decoder: Final = msgspec.json.Decoder(_TokenResponse)


class _Policy(SansIOHTTPPolicy[Any, Any]):
    """Pipeline policy that sets the address, the timeouts and the proxy, and keeps the response: exceptions contain too
    little."""

    def __init__(self, url: str, proxy: str, via: ProxyTarget | None = None) -> None:
        self._url = url
        self._proxy = proxy
        self._via = via
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    @override
    def on_request(self, request: PipelineRequest[Any]) -> None:
        request.http_request.url = self._url  # the library would use the version 2 path at AD FS too
        options = request.context.options
        options.clear()  # options for the library's own policies, which this pipeline does not contain
        options["connection_timeout"], options["read_timeout"] = CONNECT_SECONDS, ATTEMPT_SECONDS
        if self._via is not None:
            options["ssl"], options["server_hostname"] = self._via.trust, self._via.server_name
        elif self._proxy:
            options["proxy"] = self._proxy

    @override
    def on_response(self, request: PipelineRequest[Any], response: PipelineResponse[Any, Any]) -> None:
        received = response.http_response
        self.status, self.body = received.status_code, received.content
        self.headers = {str(name).lower(): str(value) for name, value in received.headers.items()}


class Entra:
    """Client of any authority. One request per call. The caller owns the session."""

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

    async def token(self, sign_in: SignIn) -> SignInResult:
        """Return a token. Raise AzureError; InvalidClient if the credential is not valid."""
        policy = _Policy(sign_in.token_url, self._proxy_for(sign_in.authority), sign_in.via)
        failure: AzureError
        try:
            async with asyncio.timeout(self._attempt_seconds):
                info = await self._request(sign_in, policy)
            return self._result(info, policy)
        except TimeoutError:
            seconds = f"{self._attempt_seconds:g} s"
            failure = _silence(sign_in)(f"no response from {sign_in.recipient.host} within {seconds}", code="timeout")
        except (CoreError, OSError) as error:
            failure = _failure(sign_in, policy, error)
        except _MISREADINGS as error:
            # Without a response, such an exception is a fault of this program.
            if policy.status == 0:
                raise
            failure = _failure(sign_in, policy, error)
        # Outside the handlers: the library's errors refer to the request, and the request to the secret.
        raise failure

    async def _request(self, sign_in: SignIn, policy: _Policy) -> AccessTokenInfo:
        options: dict[str, Any] = {
            "authority": sign_in.authority.url,
            "transport": self._transport,
            "policies": [policy],
        }
        credential: ClientSecretCredential | ClientAssertionCredential
        if sign_in.secret:
            credential = ClientSecretCredential(sign_in.tenant, sign_in.client_id, sign_in.secret, **options)
        else:
            credential = ClientAssertionCredential(
                sign_in.tenant, sign_in.client_id, lambda: sign_in.assertion, **options
            )
        request: TokenRequestOptions = {"enable_cae": False}
        if capabilities := [name for part in sign_in.xms_cc.split(",") if (name := part.strip())]:
            # enable_cae would send CP1 only. This is the client's own list, in the form that MSAL uses.
            request["claims"] = json.dumps({"access_token": {"xms_cc": {"values": capabilities}}})
        async with credential:
            return await credential.get_token_info(f"{sign_in.resource}/.default", options=request)

    def _result(self, info: AccessTokenInfo, policy: _Policy) -> SignInResult:
        """Return the result of a sign-in. Raise ValueError for an invalid token response."""
        token: Any = info.token
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise ValueError("access_token")
        response = _read(policy.body)
        expires_in, extended = _number(response.expires_in), _number(response.ext_expires_in)
        return SignInResult(
            access_token=token,
            expires_on=info.expires_on,
            expires_in=expires_in if expires_in is not None else max(0, int(info.expires_on - self._wall_clock())),
            ext_expires_in="" if extended is None else str(extended),
            token_type=info.token_type if info.token_type.isalnum() else "Bearer",
        )


def _read(body: bytes) -> _TokenResponse:
    try:
        return _decoder.decode(body)
    except (ValueError, RecursionError):
        return _TokenResponse()


def _of_proxy(response: _TokenResponse, body: bytes) -> _TokenResponse:
    """Return the response of a token proxy, whose errors may be a text or the API server's Status."""
    if response.kind == "Status":
        return _TokenResponse(error=API_SERVER_CODE, error_description=response.message)
    if response.error or response.error_description or body.lstrip()[:1] in {b"{", b"["}:
        return response
    text = body[:MESSAGE_MAX].decode("ascii", errors="replace").replace("\ufffd", "?")
    return _TokenResponse(error_description=" ".join(text.split()))


def _number(value: str | int | None) -> int | None:
    text = "" if value is None else str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def _silence(sign_in: SignIn) -> type[Unreachable]:
    return Unreachable if sign_in.via is None else ProxyUnreachable


def _failure(sign_in: SignIn, policy: _Policy, error: Exception) -> AzureError:
    """Return the failure as an AzureError. Its text omits *error*, which may contain parts of the request."""
    host = sign_in.recipient.host
    if policy.status == 0:
        return _silence(sign_in)(f"no complete response from {host}: {cause_of(error)}", code="no_answer")
    response = _read(policy.body)
    if sign_in.via is not None:
        response = _of_proxy(response, policy.body)
    throttled, failed = (Throttled, AzureError) if sign_in.via is None else (ProxyThrottled, ProxyFailed)
    if policy.status == 200 and not response.error:
        return failed(f"{host} returned no token ({type(error).__name__})", status=200, code="bad_answer")
    sentence, name = _safe(sign_in, response.error_description), _safe(sign_in, response.error)
    number = _AADSTS.search(sentence)
    kind: type[AzureError] = Refused
    if policy.status == 429:
        kind = throttled
    elif policy.status >= 500 or policy.status == 408 or response.error == "temporarily_unavailable":
        kind = failed
    elif response.error == "invalid_client":
        kind = InvalidClient
    return kind(
        sentence or name or f"{host} returned status {policy.status}",
        status=policy.status,
        code=number[0] if number else name,
        retry_after=retry_after_seconds(policy.headers.get("retry-after", "")),
        correlation_id=_safe(
            sign_in,
            response.correlation_id
            or correlation_in(response.error_description)
            or policy.headers.get("x-ms-request-id", "")
            or policy.headers.get("x-ms-correlation-request-id", ""),
        ),
        sentence=sentence,
    )


def _safe(sign_in: SignIn, sentence: str) -> str:
    """Return *sentence* without its trailing ids, with the client id redacted and all sent secrets removed."""
    for sent in (sign_in.secret, sign_in.assertion):
        # An endpoint may repeat the secret in its error, also in the encoding of the form that it received.
        for form in {sent, quote(sent), quote_plus(sent)} - {""}:
            sentence = sentence.replace(form, "<removed>")
    return sentence_in(redact_id(sentence, sign_in.client_id))


def cause_of(error: BaseException) -> str:
    """Return the cause in words for an operator: of the first known exception among *error* and those that it wraps.

    The texts of the libraries may contain parts of a request, and of a proxy's URL. These words contain neither.
    """
    for exception in _wrapped(error):
        for kind, words in _WORDS:
            if isinstance(exception, kind):
                return words if isinstance(words, str) else words(exception)
    return type(error).__name__


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and what it wraps; azure-core names it `inner_exception`."""
    seen: BaseException | None = error
    for _ in range(WRAPPED_MAX):
        if seen is None:
            return
        yield seen
        inner = getattr(seen, "inner_exception", None)
        seen = inner if isinstance(inner, BaseException) and inner is not seen else seen.__cause__ or seen.__context__


def _certificate(error: aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error
    reason = f" ({cause.verify_message})" if isinstance(cause, ssl.SSLCertVerificationError) else ""
    return f"its certificate is not trusted{reason}"


def _connection(error: aiohttp.ClientConnectorError) -> str:
    return f"cannot connect ({error.os_error.strerror or type(error.os_error).__name__})"


_WORDS: Final[tuple[tuple[type[BaseException], str | Callable[[Any], str]], ...]] = (
    (aiohttp.ClientConnectorCertificateError, _certificate),
    (aiohttp.ClientConnectorSSLError, "the TLS handshake failed"),
    (aiohttp.ClientHttpProxyError, lambda error: f"the proxy answered {error.status}"),
    (aiohttp.ClientProxyConnectionError, "cannot connect to the proxy"),
    (aiohttp.ClientConnectorDNSError, "its name cannot be resolved"),
    (aiohttp.ClientConnectorError, _connection),
    (aiohttp.ConnectionTimeoutError, "no connection in time"),
    (TimeoutError, "no response in time"),
    (aiohttp.ServerDisconnectedError, "the connection was closed before the response"),
    (aiohttp.ClientPayloadError, "the response is incomplete or too long"),
)
"""The first row whose class an exception has applies; subclasses come before their base class."""
