"""How an answer looks on the wire. The only file that knows status codes (passing on IMDS's own apart).

SDKs decide by the status whether to try again, by a 400 with "Identity not found" whether to go on to the next
credential of a chain, and by the word that `_SPOILED` takes out whether to forget about this endpoint for the process's
whole life: change nothing here without the table of client libraries at hand.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from math import ceil
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from nmi.refusal import Reason, Refusal
from nmi.tokens.token import Token
from podidentity.azure.imds import RawAnswer

JSON: Final = "application/json"
REQUEST_ID: Final = "x-ms-request-id"
SENTENCE_CHARS: Final = 1024
"""What a pod reads of an error at most; an AAD error with its correlation id is about 400."""
RETRY_AFTER_SECONDS: Final = 5
"""When nobody said how long: two tries of Azure's own guidance later."""
ASSIGNING_RETRY_AFTER_SECONDS: Final = 20
"""An assignment on Azure takes 10 to 60 seconds; the reference says 20 too."""

_SPOILED: Final = re.compile("unreachable", re.IGNORECASE)
"""A 403 with it makes the Python and JavaScript SDKs take the endpoint for absent."""
_NANOSECONDS: Final = 10**9


class Answer(Protocol):
    """Anything that can be written to a connection as the answer to one request."""

    @property
    def status(self) -> int: ...

    @property
    def ends_connection(self) -> bool:
        """Whether the connection must end with it, as nobody can say where the next request begins."""

    def render(self, now_ns: int, close: bool = False) -> bytes:
        """The whole answer at *now_ns* (time.monotonic_ns()); *close* adds `Connection: close`."""


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """An answer whose bytes do not depend on the time."""

    status: int
    body: bytes = field(repr=False)
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    """Besides Content-Type, Content-Length and Connection. Names and values have been checked."""
    ends_connection: bool = False
    length: int | None = None
    """What Content-Length says where the body does not come along: in an answer to HEAD."""

    def render(self, now_ns: int, close: bool = False) -> bytes:  # noqa: ARG002 - others are rendered by the time
        length = len(self.body) if self.length is None else self.length
        return _head(self.status, self.content_type, length, self.headers, close=close) + self.body


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """The head of an answer whose body follows piece by piece, *length* bytes in all unless the connection ends."""

    status: int
    length: int
    content_type: str
    headers: tuple[tuple[str, str], ...]
    ends_connection: bool = False

    def render(self, now_ns: int, close: bool = False) -> bytes:  # noqa: ARG002 - others are rendered by the time
        return _head(self.status, self.content_type, self.length, self.headers, close=close)


def _head(
    status: int, content_type: str, length: int, headers: Iterable[tuple[str, str]], *, close: bool = False
) -> bytes:
    lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if status != HTTPStatus.NO_CONTENT:  # RFC 9110 §8.6
        lines.append(f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in headers]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True, slots=True)
class _Form:
    """How one reason is answered."""

    status: HTTPStatus
    error: str
    says_retry_after: bool = False
    ends_connection: bool = False
    headers: tuple[tuple[str, str], ...] = ()


_INVALID: Final = "invalid_request"
_AWAY: Final = "temporarily_unavailable"
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
        Reason.UNKNOWN_ADDRESS: _Form(HTTPStatus.NOT_FOUND, "not_found"),
        Reason.SUSPENDED: _Form(HTTPStatus.NOT_FOUND, "not_found"),
        Reason.NOTHING_ASSIGNED: _Form(HTTPStatus.BAD_REQUEST, _INVALID),
        Reason.STILL_ASSIGNING: _Form(HTTPStatus.NOT_FOUND, "not_found"),
        Reason.NO_MATCHING_IDENTITY: _Form(HTTPStatus.NOT_FOUND, "not_found"),
        Reason.UNKNOWN_OBJECT_ID: _Form(HTTPStatus.BAD_REQUEST, _INVALID),
        Reason.UPSTREAM_REFUSED: _Form(HTTPStatus.FORBIDDEN, "access_denied"),
        Reason.UPSTREAM_UNAVAILABLE: _Form(HTTPStatus.SERVICE_UNAVAILABLE, _AWAY, says_retry_after=True),
        Reason.UPSTREAM_THROTTLED: _Form(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", says_retry_after=True),
        Reason.POLICY: _Form(HTTPStatus.FORBIDDEN, "access_denied"),
        Reason.BAD_SYNTAX: _Form(HTTPStatus.BAD_REQUEST, _INVALID, ends_connection=True),
        Reason.HEAD_TOO_LARGE: _Form(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _INVALID, ends_connection=True),
        Reason.BODY_TOO_LARGE: _Form(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _INVALID, ends_connection=True),
        Reason.TIMED_OUT: _Form(HTTPStatus.SERVICE_UNAVAILABLE, _AWAY, says_retry_after=True),
        Reason.OVERLOADED: _Form(HTTPStatus.SERVICE_UNAVAILABLE, _AWAY, says_retry_after=True),
        Reason.INTERNAL: _Form(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", ends_connection=True),
    }
)
_ON_ITS_WAY: Final = frozenset({Reason.STILL_ASSIGNING, Reason.NO_MATCHING_IDENTITY})
_RETRIABLE: Final = _Form(HTTPStatus.SERVICE_UNAVAILABLE, _AWAY, says_retry_after=True)


def refused(
    refusal: Refusal, *, request_id: str = "", set_retry_after: bool = False, allow: Iterable[str] = ()
) -> PlainAnswer:
    """The answer to a refused request, with its id for whoever asks about it.

    With *set_retry_after* an identity that is on its way is a 503 with Retry-After, not a 404. *allow*: the methods
    that a 405 names.
    """
    form, ours = _FORMS[refusal.reason], RETRY_AFTER_SECONDS
    if refusal.reason in _ON_ITS_WAY:
        ours = ASSIGNING_RETRY_AFTER_SECONDS
        form = _RETRIABLE if set_retry_after else form
    headers = form.headers
    if form.says_retry_after:
        headers += (("Retry-After", str(_seconds(refusal.retry_after, ours))),)
    if allow:
        headers += (("Allow", ", ".join(allow)),)
    if request_id:
        headers += ((REQUEST_ID, request_id),)
    sentence = _SPOILED.sub("not answering", refusal.sentence)[:SENTENCE_CHARS]
    body = msgspec.json.encode({"error": form.error, "error_description": sentence})
    return PlainAnswer(form.status, body, headers=headers, ends_connection=form.ends_connection)


Parts = tuple[bytes, bytes]
"""The JSON text of an answer before and after the digits of its first expires_in."""


def token_parts(token: Token, auxiliary: Sequence[Token], expires_ns: int, now_ns: int) -> Parts:
    """The JSON body that grants *token*. All values are strings, as IMDS gives them.

    With *auxiliary* tokens it is an array, the primary one first, as the reference has it. *expires_ns* and *now_ns*
    are time.monotonic_ns(); they tell the life of all, and stand in for an ext_expires_in that nobody told.
    """
    life = str(_life(expires_ns, now_ns))
    before, after = _split(token, life)
    if not auxiliary:
        return before, after
    others = b"".join(b"," + life.encode().join(_split(each, life)) for each in auxiliary)
    return b"[" + before, after + others + b"]"


def host_token_parts(token: Token, expires_ns: int, now_ns: int) -> Parts:
    """The JSON body of /host/token: the reference's names around the same object."""
    before, after = _split(token, str(_life(expires_ns, now_ns)))
    return b'{"token":' + before, after + b',"clientid":' + msgspec.json.encode(token.client_id) + b"}"


def timeless(parts: Parts, expires_ns: int, now_ns: int) -> PlainAnswer:
    """The answer of *parts* as of now: for one that does not become a ready answer; the same bytes otherwise."""
    return PlainAnswer(HTTPStatus.OK, str(_life(expires_ns, now_ns)).encode().join(parts))


def _split(token: Token, life: str) -> Parts:
    before = {
        "access_token": token.access_token,
        "client_id": token.client_id,
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
    """Whole seconds left."""
    return max(0, expires_ns - now_ns) // _NANOSECONDS


def passed_on(answer: RawAnswer, request_id: str) -> PlainAnswer:
    """What IMDS answered, untouched, for a pod that gets its tokens from there; an error has an id in any case."""
    headers = with_request_id(answer.status, answer.headers, request_id)
    return PlainAnswer(answer.status, answer.body, content_type=answer.content_type, headers=headers)


def with_request_id(status: int, headers: tuple[tuple[str, str], ...], request_id: str) -> tuple[tuple[str, str], ...]:
    """*headers* of IMDS's answer, with our id if it is an error and has none of IMDS's."""
    if status < HTTPStatus.BAD_REQUEST or any(name.lower() == REQUEST_ID for name, _ in headers):
        return headers
    return (*headers, (REQUEST_ID, request_id))


def _seconds(told: float | None, ours: int) -> int:
    return ours if told is None else max(1, ceil(told))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
