"""The refusals that every pod gets because of the request alone: slow, simple Python code like `requests`.

`read_refusal` returns None where it is unsure, or where the response depends on more than the request: the fast lane
must then leave the request to the general lane. It assumes NMI's default settings.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from tests.support.oracle.requests import PATHS, TCHAR, _NotServed, check_framing, require, split_field

METHODS = {b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"}
PLAIN = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
ANSWERS = {
    "NO_HEADER": (400, "Required metadata header not specified"),
    "NO_RESOURCE": (400, "The parameter resource is required."),
    "NOT_GET": (405, "Request tokens with GET."),
    "UNKNOWN_IDENTITY": (404, "There is nothing here."),
    "UNKNOWN_METADATA": (404, "There is nothing here."),
    "UNKNOWN_OTHER": (404, "There is nothing here."),
    "INSTANCE_NOT_GET": (405, "This method is not allowed here."),
}
"""Status and description of the response to each kind of request."""


@dataclass(frozen=True)
class Refused:
    """A request that NMI refuses for every pod."""

    kind: str
    """A key of ANSWERS."""
    size: int
    """Length of the head in bytes."""
    close: bool
    """Whether the connection ends with the response."""


def read_refusal(data: bytes) -> Refused | None:
    """Return the refusal of the request at the start of *data*; None if there is none for sure."""
    head, end, _ = data.partition(b"\r\n\r\n")
    try:
        require(end)
        start, *lines = head.split(b"\r\n")
        require(not any(byte in line for line in (start, *lines) for byte in b"\r\n\0"))
        words = start.split(b" ")
        require(len(words) == 3 and words[0] in METHODS and words[2] == b"HTTP/1.1")
        require(TCHAR.issuperset(words[0]) and re.fullmatch(rb"[!-\"$-~]+", words[1]))
        metadata, close = check_fields([split_field(line) for line in lines])
        kind = kind_of(words[0].decode(), words[1].decode(), metadata=metadata)
    except _NotServed:
        return None
    return Refused(kind, len(head) + len(end), close)


def check_fields(fields: list[tuple[str, str]]) -> tuple[bool, bool]:
    """Return whether `Metadata: true` is present, and whether the connection ends with the response."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    check_framing(values, "HTTP/1.1")
    require(not {"upgrade", "proxy-connection", "x-forwarded-for"} & set(values))
    require(len(values.get("host", [])) == 1)
    require(re.fullmatch(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?", values["host"][0]))
    require(len(values.get("metadata", [])) <= 1)
    options = {option.strip(" \t").lower() for value in values.get("connection", []) for option in value.split(",")}
    return [value.lower() for value in values.get("metadata", [])] == ["true"], "close" in options


def kind_of(method: str, target: str, *, metadata: bool) -> str:
    """Return the kind of a request."""
    path, _, query = target.partition("?")
    if "/".join("metadata" if word.lower() == "metadata" else word for word in path.split("/")) in PATHS:
        if method != "GET":
            return "NOT_GET"
        if not metadata:
            return "NO_HEADER"
        require(not resource_of(query))
        return "NO_RESOURCE"
    first, *segments = path.split("/")
    require(first == "" and segments)
    if segments[-1] == "":
        segments.pop()
    require(all(PLAIN.fullmatch(segment) for segment in segments))
    small = [segment.lower() for segment in segments]
    require(small[:1] != ["host"])
    if "identity" in "/".join(small):
        require("token" not in "/".join(small))  # perhaps a disguise of the token path
        return "UNKNOWN_IDENTITY"
    if small[:2] == ["metadata", "instance"]:
        require(method != "GET")
        return "INSTANCE_NOT_GET"
    return "UNKNOWN_METADATA" if small[:1] == ["metadata"] else "UNKNOWN_OTHER"


def resource_of(query: str) -> str:
    """Return the resource that *query* contains, or an empty text."""
    fields: dict[bytes, bytes] = {}
    for pair in query.split("&"):
        require(not re.search(r"%(?![0-9A-Fa-f]{2})|;", pair))
        name, _, value = (unquote_to_bytes(part) for part in pair.replace("+", " ").partition("="))
        require(name not in fields)
        require(all(0x20 <= byte <= 0x7E for byte in name + value))
        fields[name] = value
    return fields.get(b"resource", b"").decode()
