"""The wire format of responses. The only file that defines status codes (IMDS's own status is forwarded unchanged).

By the status, SDKs decide whether to retry. A 400 with "Identity not found" makes them continue with the next
credential of a chain. The text that `_FATAL_WORD` removes makes them ignore this endpoint for the lifetime of the
process. Check the table of client libraries before a change here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from typing_extensions import override

from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.tokens.source import Token
from podidentity.azure.imds import RawResponse

if TYPE_CHECKING:  # podidctl imports this module without compiled modules
    from _native.ready_responses import SharedText, Usage

JSON: Final = "application/json"
REQUEST_ID: Final = "x-ms-request-id"
SENTENCE_CHARS: Final = 1024
"""The maximum length of an error text for a pod; an AAD error with its correlation id has about 400 characters."""
RETRY_AFTER_SECONDS: Final = 5
"""The default without a Retry-After from upstream: the time of two attempts by Azure's guidance."""
ASSIGNING_RETRY_AFTER_SECONDS: Final = 20
"""An assignment on Azure takes 10 to 60 seconds. The Go implementation uses 20 too."""

_FATAL_WORD: Final = "unreachable"
"""A 403 with this word makes the Python and JavaScript SDKs treat the endpoint as absent."""
NOTHING_NAMED: Final[Mapping[str, str]] = MappingProxyType({})
_NANOSECONDS: Final = 10**9
_PHRASES: Final = MappingProxyType({int(status): status.phrase for status in HTTPStatus})


class Response(Protocol):
    """A response to one request that can be written to a connection."""

    @property
    def status(self) -> int: ...

    @property
    def ends_connection(self) -> bool:
        """Whether the connection must end with it: the start of the next request is unknown, or NMI is the peer."""

    def render(self, now_ns: int, close: bool = False) -> bytes:
        """Return the whole response at *now_ns* (time.monotonic_ns()); *close* adds `Connection: close`."""


class PlainResponse(msgspec.Struct, frozen=True):
    """A response whose bytes do not depend on the time."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    """In addition to Content-Type, Content-Length and Connection. Names and values are validated."""
    ends_connection: bool = False
    length: int | None = None
    """The value of Content-Length for a response without its body: the response to HEAD."""
    text: "SharedText | None" = None
    """The same response for the fast lane, if it is cached for all pods."""
    usage: "Usage | None" = None
    """Counts the uses of *text*, which has one."""

    @override
    def __repr__(self) -> str:
        """Return no body: it may contain a token."""
        return f"PlainResponse({self.status}, {self.content_type!r}, {len(self.body)} bytes)"

    def render(self, now_ns: int, close: bool = False) -> bytes:  # noqa: ARG002 - others are rendered by the time
        length = len(self.body) if self.length is None else self.length
        return _head(self.status, self.content_type, length, self.headers, close=close) + self.body


class StreamedResponse(msgspec.Struct, frozen=True):
    """The head of a response whose body follows in pieces, *length* bytes in total unless the connection ends."""

    status: int
    length: int
    content_type: str
    headers: tuple[tuple[str, str], ...]
    ends_connection: bool = False

    def render(self, now_ns: int, close: bool = False) -> bytes:  # noqa: ARG002 - others are rendered by the time
        return _head(self.status, self.content_type, self.length, self.headers, close=close)


def head_of(response: PlainResponse) -> bytes:
    """Return the head of *response* without its last line end, as ready responses need it."""
    return _head(response.status, response.content_type, len(response.body), response.headers).removesuffix(b"\r\n\r\n")


def _head(
    status: int, content_type: str, length: int, headers: Iterable[tuple[str, str]], *, close: bool = False
) -> bytes:
    phrase = _PHRASES.get(status, "Unknown")
    lines = [f"HTTP/1.1 {status} {phrase}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if status != HTTPStatus.NO_CONTENT:  # RFC 9110 §8.6
        lines.append(f"Content-Length: {length}")
    for name, value in headers:
        lines.append(f"{name}: {value}")
    if close:
        lines.append("Connection: close")
    lines += ("", "")
    return "\r\n".join(lines).encode("latin-1")


class _Form(msgspec.Struct, frozen=True):
    """The form of the response for one reason."""

    status: HTTPStatus
    error: str
    has_retry_after: bool = False
    ends_connection: bool = False
    headers: tuple[tuple[str, str], ...] = ()


_INVALID: Final = "invalid_request"
_UNAVAILABLE: Final = "temporarily_unavailable"
_FORMS: Final = MappingProxyType(
    {
        Reason.METHOD_NOT_ALLOWED: _Form(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed"),
        Reason.FORWARDED: _Form(HTTPStatus.BAD_REQUEST, _INVALID),
        Reason.METADATA_HEADER_MISSING: _Form(HTTPStatus.BAD_REQUEST, _INVALID),
        Reason.BAD_PARAMETERS: _Form(HTTPStatus.BAD_REQUEST, _INVALID),
        Reason.DISGUISED_PATH: _Form(HTTPStatus.BAD_REQUEST, _INVALID),
        Reason.UNKNOWN_PATH: _Form(HTTPStatus.NOT_FOUND, "not_found"),
        Reason.BLOCKED_PATH: _Form(HTTPStatus.FORBIDDEN, "access_denied"),
        Reason.NOT_REDIRECTED: _Form(HTTPStatus.FORBIDDEN, "access_denied"),
        Reason.NOT_FROM_HOST: _Form(HTTPStatus.FORBIDDEN, "access_denied"),
        # NMI would send its next requests to IMDS through the same redirected connection.
        Reason.LOOPED: _Form(HTTPStatus.LOOP_DETECTED, "loop_detected", ends_connection=True),
        Reason.UNKNOWN_ADDRESS: _Form(HTTPStatus.NOT_FOUND, "not_found"),
        Reason.SUSPENDED: _Form(HTTPStatus.NOT_FOUND, "not_found"),
        # With this status and the sentence "Identity not found", SDKs continue with the next credential of a chain.
        Reason.NOTHING_ASSIGNED: _Form(HTTPStatus.BAD_REQUEST, _INVALID),
        Reason.STILL_ASSIGNING: _Form(HTTPStatus.NOT_FOUND, "not_found"),
        Reason.NO_MATCHING_IDENTITY: _Form(HTTPStatus.NOT_FOUND, "not_found"),
        Reason.UNKNOWN_OBJECT_ID: _Form(HTTPStatus.BAD_REQUEST, _INVALID),
        Reason.UPSTREAM_REFUSED: _Form(HTTPStatus.FORBIDDEN, "access_denied"),
        Reason.UPSTREAM_UNAVAILABLE: _Form(HTTPStatus.SERVICE_UNAVAILABLE, _UNAVAILABLE, has_retry_after=True),
        Reason.UPSTREAM_THROTTLED: _Form(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", has_retry_after=True),
        Reason.POLICY: _Form(HTTPStatus.FORBIDDEN, "access_denied"),
        Reason.BAD_SYNTAX: _Form(HTTPStatus.BAD_REQUEST, _INVALID, ends_connection=True),
        Reason.HEAD_TOO_LARGE: _Form(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _INVALID, ends_connection=True),
        Reason.BODY_TOO_LARGE: _Form(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _INVALID, ends_connection=True),
        Reason.TIMED_OUT: _Form(HTTPStatus.SERVICE_UNAVAILABLE, _UNAVAILABLE, has_retry_after=True),
        Reason.OVERLOADED: _Form(HTTPStatus.SERVICE_UNAVAILABLE, _UNAVAILABLE, has_retry_after=True),
        Reason.INTERNAL: _Form(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", ends_connection=True),
    }
)
_ASSIGNING: Final = frozenset({Reason.STILL_ASSIGNING, Reason.NO_MATCHING_IDENTITY})
_RETRIABLE: Final = _Form(HTTPStatus.SERVICE_UNAVAILABLE, _UNAVAILABLE, has_retry_after=True)


def refused(
    refusal: Refusal, *, request_id: str = "", set_retry_after: bool = False, allow: Iterable[str] = ()
) -> PlainResponse:
    """Return the response to a refused request, with *request_id*, which appears in the log too: in a field of the head
    and, for MSAL.NET and MSAL4J, as the last value of the body.

    With *set_retry_after*, an identity that is still being assigned is a 503 with Retry-After, not a 404. *allow*: the
    methods that a 405 names.
    """
    form, default = _FORMS[refusal.reason], RETRY_AFTER_SECONDS
    if refusal.reason in _ASSIGNING:
        default = ASSIGNING_RETRY_AFTER_SECONDS
        form = _RETRIABLE if set_retry_after else form
    headers = form.headers
    if form.has_retry_after:
        headers += (("Retry-After", str(_seconds(refusal.retry_after, default))),)
    if allow:
        headers += (("Allow", ", ".join(allow)),)
    if request_id:
        headers += ((REQUEST_ID, request_id),)
    sentence = refusal.sentence
    # Parts of the sentence come from other services.
    if _FATAL_WORD in sentence.lower():
        sentence = re.sub(_FATAL_WORD, "not answering", sentence, flags=re.IGNORECASE)
    sentence = sentence[:SENTENCE_CHARS]
    document = {"error": form.error, "error_description": sentence}
    # The body for a missing header is IMDS's own, byte for byte: probes send requests without it.
    if request_id and refusal.reason is not Reason.METADATA_HEADER_MISSING:
        document["correlationId"] = request_id
    body = msgspec.json.encode(document)
    return PlainResponse(form.status, body, headers=headers, ends_connection=form.ends_connection)


Parts = tuple[bytes, bytes]
"""The JSON text of a response before and after the digits of its first expires_in."""


def named_in(request: TokenRequest) -> Mapping[str, str]:
    """Return the field by which the response repeats the selector of *request*; empty for one by client id or none."""
    name = {SelectorKind.OBJECT_ID: "object_id", SelectorKind.RESOURCE_ID: "msi_res_id"}.get(request.selector)
    return {} if name is None else {name: request.selector_value}


def token_parts(
    token: Token, auxiliary: Sequence[Token], expires_ns: int, now_ns: int, named: Mapping[str, str] = NOTHING_NAMED
) -> Parts:
    """Return the JSON body with *token* and *named*. All values are strings, as in IMDS's responses.

    With *auxiliary* tokens the body is an array with the primary token first, as in the Go implementation. *expires_ns*
    and *now_ns* are time.monotonic_ns(): the remaining lifetime of all tokens, also used for a missing ext_expires_in.
    """
    life = str(_life(expires_ns, now_ns))
    before, after = _split(token, life, named)
    if not auxiliary:
        return before, after
    others = b"".join(b"," + life.encode().join(_split(further, life, named)) for further in auxiliary)
    return b"[" + before, after + others + b"]"


def host_token_parts(token: Token, expires_ns: int, now_ns: int) -> Parts:
    """Return the JSON body of /host/token: the same object inside the Go implementation's field names."""
    before, after = _split(token, str(_life(expires_ns, now_ns)), NOTHING_NAMED)
    return b'{"token":' + before, after + b',"clientid":' + msgspec.json.encode(token.client_id) + b"}"


def rendered(parts: Parts, expires_ns: int, now_ns: int) -> PlainResponse:
    """Return the response of *parts* as of now, for one that is not a ready response. The bytes are the same."""
    return PlainResponse(HTTPStatus.OK, str(_life(expires_ns, now_ns)).encode().join(parts))


def _split(token: Token, life: str, named: Mapping[str, str]) -> Parts:
    before = {
        "access_token": token.access_token,
        "client_id": token.client_id,
        **named,
        "refresh_token": token.refresh_token,
    }
    after = {
        "expires_on": str(token.expires_on),
        "ext_expires_in": token.ext_expires_in or life,
        "not_before": str(token.not_before),
        "resource": token.resource,
        "token_type": token.token_type,
    }
    return (
        msgspec.json.encode(before)[:-1] + b',"expires_in":"',
        b'",' + msgspec.json.encode(after)[1:],
    )


def _life(expires_ns: int, now_ns: int) -> int:
    """Return the remaining lifetime in whole seconds."""
    return max(0, expires_ns - now_ns) // _NANOSECONDS


def forwarded(response: RawResponse, request_id: str) -> PlainResponse:
    """Return IMDS's response unchanged, for an exempt pod. An error always has a request id."""
    headers = with_request_id(response.status, response.headers, request_id)
    return PlainResponse(response.status, response.body, content_type=response.content_type, headers=headers)


def with_request_id(status: int, headers: tuple[tuple[str, str], ...], request_id: str) -> tuple[tuple[str, str], ...]:
    """Return *headers* of IMDS's response, with NMI's request id if it is an error without an id of IMDS."""
    if status < HTTPStatus.BAD_REQUEST or any(name.lower() == REQUEST_ID for name, _ in headers):
        return headers
    return (*headers, (REQUEST_ID, request_id))


def _seconds(retry_after: float | None, default: int) -> int:
    return default if retry_after is None else max(1, ceil(retry_after))
