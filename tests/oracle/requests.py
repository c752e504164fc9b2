"""What a token request means: slow, obvious Python to hold the two lanes against.

Written from the RFCs and the behaviour that NMI promises, never from either lane's code, and in another way: it splits and
compares where the scanner walks. It takes no limits into account and judges no body; where a request depends on one of
these, it says so (`Verdict.UNSURE`) and leaves the judgement to the corpus.
"""

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

SELECTORS = {"client_id": 1, "object_id": 2, "msi_res_id": 3, "mi_res_id": 3, "msi-res-id": 3}
TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")  # RFC 9110 §5.6.2
PATHS = {slash + "/metadata/identity/oauth2/token" + end for slash in ("", "/") for end in ("", "/")}


class Verdict(Enum):
    """What becomes of bytes that are no token request."""

    INCOMPLETE = "no head is complete yet"
    REFUSED = "it is refused, or leads elsewhere: never a token"
    UNSURE = "it depends on limits or on a body"


@dataclass(frozen=True)
class Asked:
    """A request that is answered with a token if its pod may have one."""

    size: int
    """Bytes of its head."""
    resource: str
    selector_kind: int
    selector_value: str
    """Lower-case."""
    xms_cc: str
    close: bool
    """Whether the connection ends with the answer."""
    cacheable: bool
    """Whether a ready answer may be given: nothing asked for a fresh one."""


def read(data: bytes) -> Asked | Verdict:
    """What the request at the beginning of *data* means."""
    skipped = 2 if data.startswith(b"\r\n") else 0  # RFC 9112 §2.2
    head, end, _ = data[skipped:].partition(b"\r\n\r\n")
    if not end:
        return Verdict.INCOMPLETE
    start, *lines = head.split(b"\r\n")
    if any(byte in line for line in (start, *lines) for byte in b"\r\n\0"):
        return Verdict.REFUSED
    fields = [split_field(line) for line in lines]
    target = split_request_line(start)
    if target is None or None in fields:
        return Verdict.REFUSED
    version, text = target
    meaning = judge_fields([each for each in fields if each is not None], version)
    asked = judge_target(text)
    if meaning is Verdict.UNSURE:
        return Verdict.UNSURE
    if isinstance(meaning, Verdict) or isinstance(asked, Verdict):
        return Verdict.REFUSED
    resource, kind, value, xms_cc, cacheable = asked
    if len(head) > 4000 or len(lines) > 32:
        return Verdict.UNSURE
    return Asked(skipped + len(head) + 4, resource, kind, value, xms_cc, meaning, cacheable)


def split_request_line(line: bytes) -> tuple[str, str] | None:
    """Version and target of a GET."""
    words = line.split(b" ")
    if len(words) != 3 or words[0] != b"GET" or words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        return None
    if any(not 0x21 <= byte <= 0x7E or byte == ord("#") for byte in words[1]):
        return None
    return words[2].decode(), words[1].decode()


def split_field(line: bytes) -> tuple[str, str] | None:
    """RFC 9112 §5."""
    name, colon, value = line.partition(b":")
    if not colon or not name or not TCHAR.issuperset(name):
        return None
    if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in value):
        return None
    return name.decode().lower(), value.decode("latin-1").strip(" \t")


def judge_fields(fields: list[tuple[str, str]], version: str) -> bool | Verdict:
    """Whether the connection ends with the answer."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    if {"content-length", "transfer-encoding", "expect", "content-type", "upgrade"} & set(values):
        return Verdict.UNSURE
    hosts = values.get("host", [])
    if len(hosts) != 1 and not (version == "HTTP/1.0" and not hosts):
        return Verdict.REFUSED
    if hosts and not re.fullmatch(r"([A-Za-z0-9._-]+)(:[0-9]{1,5})?", hosts[0]):
        return Verdict.UNSURE if re.fullmatch(r"[!-~]*", hosts[0]) else Verdict.REFUSED
    if [each.lower() for each in values.get("metadata", [])] != ["true"] or "x-forwarded-for" in values:
        return Verdict.REFUSED
    if "proxy-connection" in values:
        return Verdict.UNSURE
    options = {option.strip(" \t").lower() for value in values.get("connection", []) for option in value.split(",")}
    if version == "HTTP/1.0":
        return "close" in options or "keep-alive" not in options
    return "close" in options


def judge_target(target: str) -> tuple[str, int, str, str, bool] | Verdict:
    """Resource, selector kind and value, xms_cc, and whether a ready answer will do."""
    path, _, query = target.partition("?")
    words = path.split("/")
    spelt = "/".join("metadata" if word.lower() == "metadata" else word for word in words)
    if spelt not in PATHS:
        return Verdict.REFUSED
    found: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if re.search(r"%(?![0-9A-Fa-f]{2})", pair):
            return Verdict.REFUSED
        try:
            name, value = (unquote_to_bytes(text.replace("+", " ")).decode() for text in (name, value))
        except UnicodeDecodeError:
            return Verdict.REFUSED
        if name in found:
            return Verdict.REFUSED
        found[name] = value
    if not found.get("resource"):
        return Verdict.REFUSED
    selectors = [name for name in SELECTORS if found.get(name)]
    if len(selectors) > 1:
        return Verdict.REFUSED
    kind = SELECTORS[selectors[0]] if selectors else 0
    value = found[selectors[0]].lower() if selectors else ""
    anew = found.get("bypass_cache", "").lower() == "true" or bool(found.get("token_sha256_to_refresh"))
    return found["resource"], kind, value, found.get("xms_cc", ""), not anew
