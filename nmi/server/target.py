"""The resolution of a request's target on one normal form. Pure: it turns text into a `Destination`.

Guarantee: for any bytes that a pod sends, NMI never forwards to IMDS a path that IMDS could read as a path about
identities, because the response would be a token of the node. Four steps implement it; each can only refuse more:

1. `normal` removes every known disguise (escapes, backslashes, doubled slashes, dot segments, path parameters). It
   returns None (a 400) if the rest contains anything but letters, digits, "_", "-" and single inner dots, thus also
   for escapes of escapes, or if the path is so long, or has so many escapes, that its cost would delay other pods. So
   no later step can read the path in a different way.
2. The token path is served under a few raw spellings only. Any other target that leads there, or that contains its
   four words in order, is refused as a disguise.
3. A path that contains `identity` anywhere, in any letter case, is never forwarded.
4. Only the normal form is forwarded, and only under a prefix that the operator allowed, never under NMI's own paths.
"""

import re
from enum import Enum, StrEnum
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

ESCAPES_MAX: Final = 16
"""Escapes of a path. IMDS's own paths need none."""
PATH_BYTES_MAX: Final = 257
"""IMDS's own paths have under 100 bytes; the fast lane's have at most 256 after the first slash."""

_TOKEN_SPELLINGS: Final = re.compile(r"//?[mM][eE][tT][aA][dD][aA][tT][aA]/identity/oauth2/token/?")
"""What SDKs send: MSAL4J builds `host//metadata/…`, others end in a slash or begin with `/Metadata`."""
_TOKEN_WORDS: Final = ("metadata", "identity", "oauth2", "token")
_ABSOLUTE_FORM: Final = re.compile(r"https?://[^/?]*", re.IGNORECASE)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
"""RFC 3986 §2.3 unreserved, without the characters that a Windows file system could read as another name: it drops
trailing dots, and `identi~1` would be a short name of `identity`. IMDS's own paths have neither."""


class CanonicalPath(StrEnum):
    """The canonical paths: a closed set, because they are values of a metric label."""

    TOKEN = "/metadata/identity/oauth2/token"  # noqa: S105 - a path
    HOST_TOKEN = "/host/token"  # noqa: S105 - a path
    IDENTITY = "/metadata/identity"
    INSTANCE = "/metadata/instance"
    METADATA = "/metadata"
    OTHER = "other"


class Action(Enum):
    """The action for a request to a destination."""

    TOKEN = 1
    HOST_TOKEN = 2
    PROXY = 3
    REFUSE_DISGUISE = 4
    """400: a spelling that no client needs."""
    REFUSE_UNKNOWN = 5
    """404 for any method and headers: an SDK reads a 400 on some of these paths as a sign of IMDSv2."""


class Destination(msgspec.Struct, frozen=True):
    """The result of resolving a target."""

    action: Action
    canonical_path: CanonicalPath
    path: str = ""
    """The normal form, which may be forwarded. Empty if there is none, and for the token path."""
    query: str = ""
    """As sent, without the question mark."""


class ProxiedPaths:
    """The paths that may be proxied to IMDS in addition to /metadata/instance: none, some prefixes, or all (as in the
    Go implementation).
    """

    __slots__ = ("everything", "prefixes")

    def __init__(self, prefixes: tuple[str, ...] = (), *, everything: bool = False) -> None:
        """Raise ValueError for a prefix that is not below /metadata/, not in normal form, or about identities."""
        self.everything = everything
        self.prefixes = tuple(_prefix(prefix) for prefix in prefixes)

    def allows(self, segments: tuple[str, ...]) -> bool:
        """Return whether a path of these lower-case segments may be forwarded."""
        return self.everything or any(segments[: len(prefix)] == prefix for prefix in self.prefixes)


def _prefix(text: str) -> tuple[str, ...]:
    segments = tuple(text.lower().strip("/").split("/"))
    if (
        (normal(text) or "").lower() != text.lower()
        or len(segments) < 2
        or segments[0] != "metadata"
        or _about_identity(text)
    ):
        raise ValueError(
            f"{text!r} cannot be proxied: give a plain path such as /metadata/versions, never one about identities"
        )
    return segments


def resolve(target: str, proxied_paths: ProxiedPaths) -> Destination:
    """Return the destination of *target* (visible ASCII without "#")."""
    raw, _, query = target.partition("?")
    absolute = _ABSOLUTE_FORM.match(raw)
    if absolute is not None:  # RFC 9112 §3.2.2: a server accepts it, although no client sends it to an origin server
        raw = raw[absolute.end() :] or "/"
    if absolute is None and _TOKEN_SPELLINGS.fullmatch(raw):
        return Destination(Action.TOKEN, CanonicalPath.TOKEN, query=query)
    decoded = _decoded(raw)
    path = None if decoded is None else _normalized(decoded)
    if decoded is None or path is None:
        return Destination(Action.REFUSE_DISGUISE, CanonicalPath.OTHER)
    return _elsewhere(decoded, path, query, proxied_paths)


def _elsewhere(decoded: str, path: str, query: str, proxied_paths: ProxiedPaths) -> Destination:
    """Return the destination of a path that is not a spelling of the token path. *path*: its normal form."""
    segments = tuple(path.lower().strip("/").split("/"))
    # The normal form drops dot segments and path parameters, which may contain the words, so both texts are searched.
    if _spells_token_path(path) or _spells_token_path(decoded):
        return Destination(Action.REFUSE_DISGUISE, CanonicalPath.TOKEN)
    if segments == ("host", "token"):
        return Destination(Action.HOST_TOKEN, CanonicalPath.HOST_TOKEN, path, query)
    if _about_identity(path) or _about_identity(decoded):
        return Destination(Action.REFUSE_UNKNOWN, CanonicalPath.IDENTITY)
    if segments[:2] == ("metadata", "instance"):
        return Destination(Action.PROXY, CanonicalPath.INSTANCE, path, query)
    canonical_path = CanonicalPath.METADATA if segments[0] == "metadata" else CanonicalPath.OTHER
    # Paths below /host are NMI's own, also if the operator allows all others.
    action = Action.PROXY if segments[0] != "host" and proxied_paths.allows(segments) else Action.REFUSE_UNKNOWN
    return Destination(action, canonical_path, path, query)


def normal(raw: str) -> str | None:
    """Return the normal form of an absolute path, or None if it has none.

    The normal form has no escape, backslash, empty segment, dot segment or path parameter, `metadata` in lower case,
    and plain ASCII only. One trailing slash remains: it may have a meaning for the server.
    """
    decoded = _decoded(raw)
    return None if decoded is None else _normalized(decoded)


def _normalized(decoded: str) -> str | None:
    """Return the normal form of a path without escapes, or None if it has none."""
    pieces = decoded.replace("\\", "/").split("/")
    if pieces[0] or len(pieces) < 2:
        return None
    segments: list[str] = []
    for piece in pieces:
        segment = piece.partition(";")[0]  # path parameters: "..;x" is a dot segment too
        if segment == "..":
            del segments[-1:]
        elif segment in {"", "."}:
            continue
        elif _SEGMENT.fullmatch(segment) is None:
            return None
        else:
            segments.append(segment)
    if segments and segments[0].lower() == "metadata":
        segments[0] = "metadata"
    trailing = "/" if segments and pieces[-1] == "" else ""
    return "/" + "/".join(segments) + trailing


def _decoded(text: str) -> str | None:
    """Return *text* with all escapes decoded; None if it is too long or has a bad escape, one of "%", or non-ASCII.

    Over-long UTF-8 needs bytes from 0x80 up, like every non-ASCII character, so it is refused here too.
    """
    if len(text) > PATH_BYTES_MAX or text.count("%") > ESCAPES_MAX or _BAD_ESCAPE.search(text):
        return None
    decoded = unquote_to_bytes(text)
    return None if b"%" in decoded or not decoded.isascii() else decoded.decode()


def _spells_token_path(path: str) -> bool:
    """Return whether the four words of the token path occur in order, with any text between them."""
    text, at = path.lower(), 0
    for word in _TOKEN_WORDS:
        at = text.find(word, at)
        if at < 0:
            return False
        at += len(word)
    return True


def _about_identity(path: str) -> bool:
    return "identity" in path.lower()
