"""Decoding of IMDS's responses into tokens and errors. Pure."""

from collections.abc import Mapping
from typing import Final

import msgspec

from podidentity.azure.errors import (
    AzureError,
    CameBack,
    NotYet,
    Refused,
    Throttled,
    correlation_in,
    plain,
    retry_after_seconds,
    sentence_in,
)
from podidentity.hidden_fields import HidingStruct
from podidentity.telemetry.logs import redact_id

GUEST_PROXY: Final = "guest_proxy_agent"
"""The code of an error of Azure's Guest Proxy Agent in place of IMDS. Unlike IMDS's errors, these have no body."""
GUEST_PROXY_STATUSES: Final = frozenset({403, 405, 421})
HEADER_MAX: Final = 256
"""Maximum length of a header value that is passed on."""


class ImdsToken(HidingStruct, frozen=True):
    """IMDS's token. *expires_on* and *not_before* are Unix seconds, *expires_in* is in seconds from the response's
    arrival.
    """

    hidden = frozenset({"access_token", "client_id", "object_id", "refresh_token"})

    access_token: str
    expires_on: int
    expires_in: int
    not_before: int
    resource: str
    client_id: str
    object_id: str
    token_type: str
    refresh_token: str
    ext_expires_in: str
    correlation_id: str = ""
    """IMDS's id of the call, if it sent one."""


class Reply(HidingStruct, frozen=True):
    """A complete HTTP response."""

    hidden = frozenset({"body", "headers"})

    status: int
    body: bytes
    headers: Mapping[str, str]
    """By names in lower case."""

    def header(self, name: str) -> str:
        """Return the header's value; empty if it is not short printable ASCII, which all readers interpret in the same
        way.
        """
        value = self.headers.get(name.lower(), "")
        return value if value.isascii() and value.isprintable() and len(value) <= HEADER_MAX else ""


class _TokenBody(msgspec.Struct):
    """Body of a 200: IMDS sends strings, its emulations also numbers."""

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


_token_bodies: Final = msgspec.json.Decoder(_TokenBody)
_errors: Final = msgspec.json.Decoder(_Error)


def token_in(reply: Reply, now: float) -> ImdsToken:
    """Return the token of a 200; *now* is the wall clock's time. Raises AzureError for another body."""
    try:
        body = _token_bodies.decode(reply.body)
        return _validated(body, now, plain(reply.header("x-ms-request-id")))
    except (ValueError, RecursionError) as error:
        # Cause and text are omitted: a decoder may quote its input, which contains a token.
        raise AzureError(f"not a token response ({type(error).__name__})", status=200, code="bad_answer") from None


def _validated(body: _TokenBody, now: float, correlation_id: str) -> ImdsToken:
    """Return the token in *body*, with numeric times. Raises ValueError for an invalid token response."""
    if not body.access_token or not body.access_token.isascii() or not body.access_token.isprintable():
        raise ValueError("access_token")
    expires_on, expires_in = _number(body.expires_on), _number(body.expires_in)
    if expires_on is None and expires_in is None:
        raise ValueError("no expiry")
    if expires_on is None:
        expires_on = int(now) + (expires_in or 0)
    if expires_in is None:
        expires_in = max(0, expires_on - int(now))
    return ImdsToken(
        access_token=body.access_token,
        expires_on=expires_on,
        expires_in=expires_in,
        not_before=_number(body.not_before) or 0,
        resource=body.resource,
        client_id=body.client_id,
        object_id=body.object_id,
        token_type=body.token_type or "Bearer",
        refresh_token=body.refresh_token or "",
        ext_expires_in="" if body.ext_expires_in is None else str(_number(body.ext_expires_in) or 0),
        correlation_id=correlation_id,
    )


def _number(value: str | int | None) -> int | None:
    """Return whole seconds, or None for an absent value. Raises ValueError for anything but up to 12 digits."""
    if value is None or value == "":
        return None
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ValueError("a time that is not a number")
    return int(text)


def _without_ids(sentence: str, query: Mapping[str, str]) -> str:
    """Return *sentence* with the requested ids redacted: Azure repeats them, and its sentences are logged."""
    for name in ("client_id", "object_id"):
        sentence = redact_id(sentence, query.get(name, ""))
    return sentence


def failure_in(query: Mapping[str, str], reply: Reply) -> AzureError:
    """Return the error for a response other than 200; *query* is the request's."""
    try:
        document = _errors.decode(reply.body)
    except (ValueError, RecursionError):
        document = _Error()
    kind: type[AzureError] = AzureError
    if reply.status in {404, 410}:
        kind = NotYet
    elif reply.status == 429:
        kind = Throttled
    elif reply.status == 508:
        kind = CameBack
    # 408 is a time-out, which may not recur; a Refused is never repeated.
    elif 400 <= reply.status < 500 and reply.status != 408:
        kind = Refused
    sentence = _without_ids(sentence_in(document.error_description), query)
    code = GUEST_PROXY if reply.status in GUEST_PROXY_STATUSES and not reply.body else document.error
    return kind(
        sentence or code or f"status {reply.status}",
        status=reply.status,
        code=code,
        retry_after=retry_after_seconds(reply.header("Retry-After")),
        correlation_id=correlation_in(document.error_description)
        or reply.header("x-ms-request-id")
        or reply.header("x-ms-correlation-request-id"),
        sentence=sentence,
    )
