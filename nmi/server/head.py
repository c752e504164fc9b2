"""The strict rules for a request's head, on its raw bytes. Pure: it turns bytes into a `Request` or a `Refusal`.

llhttp, which `reading` uses for a second check, tolerates more than a server under attack should and has no limits.
This module therefore decides on the framing of a request: each rule cites its paragraph, and anything that is not
allowed is refused.
"""

import re
from collections.abc import Sequence
from typing import Final

from nmi.refusal import Limit, Reason, Refusal
from nmi.server.policy import Sizes
from nmi.server.request import Request

CRLF: Final = b"\r\n"
HEAD_END: Final = b"\r\n\r\n"
METHOD_BYTES: Final = 16
"""The longest method in use is UNSUBSCRIBE, except UPDATEREDIRECTREF."""
VERSION_BYTES: Final = 8
CONNECTION_OPTIONS_MAX: Final = 32
"""Options of all fields Connection together, also empty ones. Clients send at most three."""
LENGTH_DIGITS: Final = 18
"""Digits of a Content-Length, also leading zeros. A longer one is treated as beyond every limit, without llhttp."""

_STRAY: Final = re.compile(rb"[\x00\r\n](?:(?<=\x00)|(?<=(?<!\r)\n)|(?<=\r)(?=[^\n]))")
"""A bare CR or LF, or a NUL. The set at its start makes the search of other bytes cheap."""
_METHOD: Final = re.compile(rb"[A-Z][A-Z-]*")
_TARGET: Final = re.compile(rb"[!-\"$-~]+")
"""Visible ASCII without "#": RFC 9112 §3.2 has no fragment in a request-target."""
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 §5.6.2 token."""
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""RFC 9110 §5.5: the bytes that a field value must not contain. obs-text (%x80-FF) is allowed: nothing compares it."""
_NAMED: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\r]*+"
_ALL_NAMED: Final = re.compile(_NAMED + rb"(?:\r\n" + _NAMED + rb")*+")
"""Lines that each have a valid name. Possessive, so that its time is linear."""
_CONTROLS: Final = bytes({*range(0x20), 0x7F} - {0x09})
"""All bytes that `_BAD_VALUE` finds, with CR and LF."""
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*)(?::[0-9]{0,5})?")
"""RFC 9110 §7.2: uri-host [":" port]; no user, no path."""
_DIGITS: Final = re.compile(r"[0-9]+")
_SINGLE: Final = ("host", "content-length", "transfer-encoding", "content-type")
"""If one of these occurs twice, two readers may use different ones."""


def refuse_early(received: bytearray, sizes: Sizes, searched: int) -> Refusal | None:
    """Return a refusal if no continuation of *received*, an incomplete head, could be accepted.

    The first *searched* bytes have been checked for stray bytes already.
    """
    if _STRAY.search(received, max(0, searched - 1)):
        return bad("a bare CR or LF, or a NUL")
    # A TLS handshake or another protocol never completes a head, so it need not wait for the deadline.
    if not b"A" <= received[:1] <= b"Z":
        return bad("no method")
    if len(received) >= sizes.head_bytes:
        return too_large("The head of the request is too large.", Limit.HEAD_BYTES)
    # A target that is already too long is refused now, not after the whole head has been buffered.
    longest = METHOD_BYTES + 1 + sizes.target_bytes + 1 + VERSION_BYTES + len(CRLF)
    if len(received) > longest and received.find(CRLF, 0, longest) < 0:
        return too_large("The target of the request is too long.", Limit.TARGET_BYTES)
    return None


def parse_head(raw: bytes, sizes: Sizes) -> Request | Refusal:
    """Return the request that begins with *raw*, which ends with its first empty line. Its body is not read yet."""
    if len(raw) > sizes.head_bytes:
        return too_large("The head of the request is too large.", Limit.HEAD_BYTES)
    line_ends = raw.count(CRLF)
    # One pass in C proves for nearly all heads that no CR or LF is outside a line end and no control byte in a value.
    plain = len(raw.translate(None, _CONTROLS)) == len(raw) - line_ends * len(CRLF)
    if not plain and _STRAY.search(raw):  # RFC 9112 §2.2: a bare CR must be rejected; a bare LF may be
        return bad("a bare CR or LF, or a NUL")
    if line_ends - 2 > sizes.fields:
        return too_large("The request has too many header fields.", Limit.HEADER_FIELDS)
    first, more, lines = raw[: -len(HEAD_END)].partition(CRLF)
    start = _request_line(first, sizes)
    if isinstance(start, Refusal):
        return start
    fields = _fields(lines, plain=plain) if more else ()
    if isinstance(fields, Refusal):
        return fields
    method, target, http_1_0 = start
    return _framed(method, target, fields, http_1_0=http_1_0)


def _request_line(line: bytes, sizes: Sizes) -> tuple[str, str, bool] | Refusal:
    """RFC 9112 §3: method SP request-target SP HTTP-version, with exactly these two spaces."""
    parts = line.split(b" ")
    if len(parts) != 3:
        return bad("a malformed request line")
    method, target, version = parts
    if len(method) > METHOD_BYTES or _METHOD.fullmatch(method) is None:
        return bad("no method")
    if len(target) > sizes.target_bytes:
        return too_large("The target of the request is too long.", Limit.TARGET_BYTES)
    if _TARGET.fullmatch(target) is None:
        return bad("a malformed target")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        return bad("another version than HTTP/1.1 or HTTP/1.0")
    return method.decode(), target.decode(), version == b"HTTP/1.0"


def _fields(lines: bytes, *, plain: bool) -> tuple[tuple[str, str], ...] | Refusal:
    """RFC 9112 §5: field-name ":" OWS field-value OWS. *plain*: no value contains a control byte."""
    if not plain or _ALL_NAMED.fullmatch(lines) is None:
        return _wrong_field(lines.split(CRLF))
    texts = lines.decode("latin-1").split("\r\n")
    return tuple([(name.lower(), value.strip(" \t")) for text in texts for name, _, value in [text.partition(":")]])


def _wrong_field(lines: Sequence[bytes]) -> Refusal:
    """Return the refusal of the first of *lines* that is no valid field."""
    for line in lines:
        name, colon, _ = line.partition(b":")
        # No space before the colon (§5.1); obs-fold (§5.2) begins with a space, which is in no name either.
        if not colon or _NAME.fullmatch(name) is None:
            return bad("a malformed header field")
        if _BAD_VALUE.search(line):
            break
    return bad("a control character in a header field")


def _framed(method: str, target: str, fields: tuple[tuple[str, str], ...], *, http_1_0: bool) -> Request | Refusal:
    """Return the request with its end and the persistence of the connection, from the fields."""
    last = dict(fields)
    if len(last) < len(fields):
        names = [name for name, _ in fields]
        for name in _SINGLE:
            if names.count(name) > 1:
                return bad(f"the header field {name} more than once")
    length, coding = last.get("content-length"), last.get("transfer-encoding")
    wrong = _wrong_host(last.get("host"), required=not http_1_0)
    if not wrong and (length is not None or coding is not None):
        wrong = _wrong_framing(length, coding, http_1_0=http_1_0)
    if wrong:
        return bad(wrong)
    if "expect" in last:
        return bad("Expect, which is not supported here")
    connection = _connection(fields) if "connection" in last else ""
    if connection.count(",") >= CONNECTION_OPTIONS_MAX:
        return bad("too many options in Connection")
    # Upgrade is ignored, as RFC 9110 §7.8 allows: the HTTP client of Java's library requests "h2c" at first.
    return Request(
        method=method,
        target=target,
        fields=fields,
        http_1_0=http_1_0,
        keep_alive=_keeps_alive(connection, http_1_0=http_1_0),
        length=0 if length is None else _bounded(length),
        chunked=coding is not None,
    )


def _connection(fields: tuple[tuple[str, str], ...]) -> str:
    """Return the options of all fields Connection, in lower case and separated by commas."""
    return ",".join([value for name, value in fields if name == "connection"]).lower()


def _keeps_alive(connection: str, *, http_1_0: bool) -> bool:
    """Return whether the connection persists by the options in *connection* (RFC 9112 §9.3)."""
    # The common case, without a split of the options.
    if not http_1_0 and "close" not in connection:
        return True
    options = [option.strip(" \t") for option in connection.split(",")]
    return "close" not in options and (not http_1_0 or "keep-alive" in options)


def _wrong_host(host: str | None, *, required: bool) -> str:
    """Return the fault of the field Host, or an empty string."""
    if host is None:
        return "no Host" if required else ""  # RFC 9112 §3.2
    return "" if _HOST.fullmatch(host) else "a malformed Host"


def _wrong_framing(length: str | None, coding: str | None, *, http_1_0: bool) -> str:
    """Return the fault of the fields that frame a body, or an empty string."""
    if coding is not None:
        # RFC 9112 §6.1: both fields, or Transfer-Encoding in HTTP/1.0, indicate smuggling or a faulty client; §6.3:
        # so does another coding.
        supported = length is None and not http_1_0 and coding.lower() == "chunked"
        return "" if supported else "a body framed in more than one way, or in an unknown one"
    return "" if length is None or _DIGITS.fullmatch(length) else "a malformed Content-Length"


def _bounded(digits: str) -> int:
    return int(digits) if len(digits) <= LENGTH_DIGITS else 10**LENGTH_DIGITS


def bad(fault: str) -> Refusal:
    """Return the refusal of a malformed request; *fault* is the fault, in NMI's words."""
    sentence = f"The request is malformed: it has {fault}."
    return Refusal(Reason.BAD_SYNTAX, sentence, f"{sentence} See which client sends it.")


def too_large(sentence: str, limit: Limit) -> Refusal:
    remedy = ", and --max-head-bytes if it is one of yours" if limit is Limit.HEAD_BYTES else ""
    detail = f"{sentence} See which client sends it{remedy}."
    return Refusal(Reason.HEAD_TOO_LARGE, sentence, detail, limit=limit)
