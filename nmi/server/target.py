"""Where a request's target leads, decided on one normal form. Pure: text in, `Destination` out.

The promise: whatever bytes a pod sends, nothing that IMDS might take for a path about identities is ever forwarded to
it, since its answer would be a token of the node. It is kept in four steps, each of which only ever refuses more:

1. `normal` undoes every disguise it knows (escapes, nested ones too, back slashes, doubled slashes, dot segments, path
   parameters), and gives up (None, a 400) if what is left holds anything but letters, digits, "_", "-" and single
   inner dots. So no step after it could read the path in yet another way.
2. The token path is served under a few raw spellings only. Whatever else leads there, or merely spells its four words
   in their order, is refused as a disguise.
3. A path in which `identity` occurs anywhere, in any case, is never forwarded.
4. What is forwarded is the normal form, and it has to be under a prefix that somebody allowed; never one of our own.
"""

import re
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

DECODINGS_MAX: Final = 4
"""No honest client escapes twice; whoever does it more often is refused without being understood."""

_TOKEN_SPELLINGS: Final = re.compile(r"//?[mM][eE][tT][aA][dD][aA][tT][aA]/identity/oauth2/token/?")
"""What SDKs send: MSAL4J builds `host//metadata/…`, others end in a slash or begin with `/Metadata`."""
_TOKEN_WORDS: Final = ("metadata", "identity", "oauth2", "token")
_ABSOLUTE_FORM: Final = re.compile(r"https?://[^/?]*", re.IGNORECASE)
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})?")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
"""RFC 3986 §2.3 unreserved, but for what a file system of Windows could take for another name: it drops trailing dots,
and `identi~1` would be a short name of `identity`. IMDS's own paths have neither."""


class Route(StrEnum):
    """The canonical paths: a closed set, since they are values of a metric's label."""

    TOKEN = "/metadata/identity/oauth2/token"  # noqa: S105 - a path
    HOST_TOKEN = "/host/token"  # noqa: S105 - a path
    IDENTITY = "/metadata/identity"
    INSTANCE = "/metadata/instance"
    METADATA = "/metadata"
    OTHER = "other"


class Action(Enum):
    """What is to be done with a request for a destination."""

    TOKEN = 1
    HOST_TOKEN = 2
    PROXY = 3
    REFUSE_DISGUISE = 4
    """400: not a spelling that anybody needs."""
    REFUSE_UNKNOWN = 5
    """404, whatever the method and the headers: an SDK takes a 400 on some of these for a sign of IMDSv2."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a target leads."""

    action: Action
    route: Route
    path: str = ""
    """In its normal form, which is what may be forwarded. Empty if it has none."""
    query: str = ""
    """As sent, without the question mark."""


class Forwarding:
    """What may be proxied to IMDS besides /metadata/instance: nothing, some prefixes, or (like the reference) all."""

    __slots__ = ("everything", "prefixes")

    def __init__(self, prefixes: tuple[str, ...] = (), *, everything: bool = False) -> None:
        """Raises ValueError for a prefix that is not below /metadata/ in its normal form, or is about identities."""
        self.everything = everything
        self.prefixes = tuple(_prefix(each) for each in prefixes)

    def allows(self, segments: tuple[str, ...]) -> bool:
        """Whether a path of these lower-cased segments may be forwarded."""
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


def resolve(target: str, forwarding: Forwarding) -> Destination:
    """Where *target* (visible ASCII without "#") leads."""
    raw, _, query = target.partition("?")
    absolute = _ABSOLUTE_FORM.match(raw)
    if absolute is not None:  # RFC 9112 §3.2.2: a server accepts it; nobody sends it to an origin server, though
        raw = raw[absolute.end() :] or "/"
    path = normal(raw)
    if path is None:
        return Destination(Action.REFUSE_DISGUISE, Route.OTHER)
    if absolute is None and _TOKEN_SPELLINGS.fullmatch(raw):
        return Destination(Action.TOKEN, Route.TOKEN, path, query)
    return _elsewhere(raw, path, query, forwarding)


def _elsewhere(raw: str, path: str, query: str, forwarding: Forwarding) -> Destination:
    """*raw* is none of the token path's spellings."""
    segments = tuple(path.lower().strip("/").split("/"))
    if _spells_token_path(path) or _spells_token_path(_decoded(raw) or ""):
        return Destination(Action.REFUSE_DISGUISE, Route.TOKEN)
    if segments == ("host", "token"):
        return Destination(Action.HOST_TOKEN, Route.HOST_TOKEN, path, query)
    if _about_identity(path) or _about_identity(_decoded(raw) or ""):
        return Destination(Action.REFUSE_UNKNOWN, Route.IDENTITY)
    if segments[:2] == ("metadata", "instance"):
        return Destination(Action.PROXY, Route.INSTANCE, path, query)
    route = Route.METADATA if segments[0] == "metadata" else Route.OTHER
    action = Action.PROXY if segments[0] != "host" and forwarding.allows(segments) else Action.REFUSE_UNKNOWN
    return Destination(action, route, path, query)


def normal(raw: str) -> str | None:
    """The one normal form of an absolute path, or None if it cannot be had.

    No escapes, no back slash, no empty or dot segment, no path parameter, `metadata` in lower case, plain ASCII only.
    One trailing slash stays, as it may mean something to the server.
    """
    text = _decoded(raw)
    if text is None or not text.startswith(("/", "\\")):
        return None
    kept: list[str] = []
    pieces = text.replace("\\", "/").split("/")
    for piece in pieces:
        segment = piece.partition(";")[0]  # path parameters; this way "..;x" is a dot segment too
        if segment == "..":
            del kept[-1:]
        elif segment in {"", "."}:
            continue
        elif _SEGMENT.fullmatch(segment) is None:
            return None
        else:
            kept.append(segment)
    if kept and kept[0].lower() == "metadata":
        kept[0] = "metadata"
    trailing = "/" if kept and pieces[-1] == "" else ""
    return "/" + "/".join(kept) + trailing


def _decoded(text: str) -> str | None:
    """*text* with every escape undone, nested ones too; None for a bad escape, one nested too deep, or no ASCII.

    Over-long UTF-8 needs bytes from 0x80 up, as every non-ASCII character does, so it ends here with them.
    """
    for _ in range(DECODINGS_MAX):
        if "%" not in text:
            return text
        if any(match[1] is None for match in _ESCAPE.finditer(text)):
            return None
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
        if not text.isascii():
            return None
    return None if "%" in text else text


def _spells_token_path(path: str) -> bool:
    """Whether the four words of the token path occur in their order, whatever stands between them."""
    text, at = path.lower(), 0
    for word in _TOKEN_WORDS:
        at = text.find(word, at)
        if at < 0:
            return False
        at += len(word)
    return True


def _about_identity(path: str) -> bool:
    return "identity" in path.lower()
