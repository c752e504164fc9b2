"""Meaning of a token request: slow, simple Python code with which tests compare the two lanes.

The code follows the RFCs and NMI's documented behaviour, never the code of a lane, and uses another method: it splits
and compares where the scanner reads byte by byte. It ignores limits and reads no body. If the outcome of a request
depends on one of these, or on the lane that reads it, it returns `Verdict.UNSURE`, and the corpus defines the outcome.
"""

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

SELECTORS = {"client_id": 1, "object_id": 2, "msi_res_id": 3, "mi_res_id": 3, "msi-res-id": 3}
TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")  # RFC 9110 §5.6.2
OWN_FIELD = "x-aad-pod-identity-hop"
"""The mark of NMI's own requests: the general lane refuses it, and the fast lane does not search for it."""
PATHS = {slash + "/metadata/identity/oauth2/token" + end for slash in ("", "/") for end in ("", "/")}


class Verdict(Enum):
    """Outcome for bytes that are not a token request."""

    INCOMPLETE = "no head is complete yet"
    REFUSED = "it is refused, or leads elsewhere: never a token"
    UNSURE = "it depends on limits, on a body or on the lane"


@dataclass(frozen=True)
class ServedRequest:
    """Request that NMI answers with a token if the pod may have one."""

    size: int
    """Length of the head in bytes."""
    resource: str
    selector_kind: int
    selector_value: str
    """Lower-case."""
    xms_cc: str
    close: bool
    """Whether the connection ends with the response."""
    cacheable: bool
    """Whether NMI may use a ready response: the request does not require a fresh token."""


class _NotServed(Exception):  # noqa: N818 - not an error: carries every verdict except a token request
    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


def read(data: bytes) -> ServedRequest | Verdict:
    """Return the meaning of the request at the start of *data*."""
    skipped = 2 if data.startswith(b"\r\n") else 0  # RFC 9112 §2.2
    head, end, _ = data[skipped:].partition(b"\r\n\r\n")
    if not end:
        return Verdict.INCOMPLETE
    try:
        return parse_head(head, skipped + len(head) + len(end))
    except _NotServed as reason:
        return reason.verdict


def require(condition: object, verdict: Verdict = Verdict.REFUSED) -> None:
    """Raise `_NotServed` with *verdict* unless *condition* is true."""
    if not condition:
        raise _NotServed(verdict)


def parse_head(head: bytes, size: int) -> ServedRequest:
    """Return the meaning of *head*, which excludes the empty line at its end. *size* includes that line."""
    start, *lines = head.split(b"\r\n")
    require(not any(byte in line for line in (start, *lines) for byte in b"\r\n\0"))
    version, target = split_request_line(start)
    fields = [split_field(line) for line in lines]
    target_parts = parse_target(target)
    close = check_fields(fields, version)
    require(len(head) < 4000 and len(lines) <= 32, Verdict.UNSURE)
    return ServedRequest(size, *target_parts[:4], close=close, cacheable=target_parts[4])


def split_request_line(line: bytes) -> tuple[str, str]:
    """Return version and target of the request line of a GET."""
    words = line.split(b" ")
    require(len(words) == 3 and words[0] == b"GET" and words[2] in (b"HTTP/1.0", b"HTTP/1.1"))
    require(all(0x21 <= byte <= 0x7E and byte != ord("#") for byte in words[1]))
    return words[2].decode(), words[1].decode()


def split_field(line: bytes) -> tuple[str, str]:
    """Return name and value of a header field (RFC 9112 §5)."""
    name, colon, value = line.partition(b":")
    require(colon and name and TCHAR.issuperset(name))
    require(all((byte >= 0x20 or byte == 0x09) and byte != 0x7F for byte in value))
    return name.decode().lower(), value.decode("latin-1").strip(" \t")


def check_fields(fields: list[tuple[str, str]], version: str) -> bool:
    """Check the header fields. Return whether the connection ends with the response."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    check_framing(values, version)
    require(not {"upgrade", "proxy-connection", OWN_FIELD} & set(values), Verdict.UNSURE)
    hosts = values.get("host", [])
    require(len(hosts) == 1 or (version == "HTTP/1.0" and not hosts))
    require(all(re.fullmatch(r"[!-~]*", host) for host in hosts))
    require(all(re.fullmatch(r"([A-Za-z0-9._-]+)(:[0-9]{1,5})?", host) for host in hosts), Verdict.UNSURE)
    require([value.lower() for value in values.get("metadata", [])] == ["true"])
    require("x-forwarded-for" not in values)
    options = {option.strip(" \t").lower() for value in values.get("connection", []) for option in value.split(",")}
    return "close" in options or (version == "HTTP/1.0" and "keep-alive" not in options)


def check_framing(values: dict[str, list[str]], version: str) -> None:
    """Require exactly one indication of the request's end, which every reader understands (RFC 9112 §6)."""
    lengths, codings = values.get("content-length", []), values.get("transfer-encoding", [])
    require(len(lengths) + len(codings) <= 1)
    require(all(re.fullmatch("[0-9]+", length) for length in lengths))
    require(all(coding.lower() == "chunked" and version == "HTTP/1.1" for coding in codings))
    require("expect" not in values)
    require(len(values.get("content-type", [])) <= 1)
    require(not codings and all(set(length) == {"0"} for length in lengths), Verdict.UNSURE)


def parse_target(target: str) -> tuple[str, int, str, str, bool]:
    """Return resource, selector kind and value, xms_cc, and whether NMI may use a ready response."""
    path, _, query = target.partition("?")
    require("/".join("metadata" if word.lower() == "metadata" else word for word in path.split("/")) in PATHS)
    fields: dict[str, str] = {}
    pairs = [pair for pair in query.split("&") if pair]
    require(query.count("&") < 16, Verdict.UNSURE)
    for pair in pairs:
        require(not re.search(r"%(?![0-9A-Fa-f]{2})|;", pair))
        name, _, value = pair.partition("=")
        name, value = decoded(name), decoded(value)
        require(not any(ord(character) < 0x20 or ord(character) == 0x7F for character in name + value))
        require(name not in fields)
        fields[name] = value
    require(fields.get("resource"))
    selectors = [name for name in SELECTORS if fields.get(name)]
    require(len(selectors) <= 1)
    kind = SELECTORS[selectors[0]] if selectors else 0
    value = fields[selectors[0]].lower() if selectors else ""
    force_refresh = fields.get("bypass_cache", "").lower() == "true" or bool(fields.get("token_sha256_to_refresh"))
    return fields["resource"], kind, value, fields.get("xms_cc", ""), not force_refresh


def decoded(text: str) -> str:
    """Decode *text* as a value of an HTML form."""
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeDecodeError:
        raise _NotServed(Verdict.REFUSED) from None
