"""One call of the token server: its caller and the ids under which logs contain it.

A call is the only part of a request that is kept while the request waits. It refers to neither the request nor its
connection.
"""

import itertools
import secrets
from dataclasses import dataclass
from typing import Final, Protocol, Self

from nmi.server.request import Request

CLIENT_REQUEST_CHARS: Final = 64
"""The maximum length of a client's id; SDKs send a UUID."""


class Origin(Protocol):
    """The part of a connection's interface that identifies the caller."""

    @property
    def peer(self) -> str:
        """The peer's IPv4 address, dotted."""

    def original_destination(self) -> tuple[str, int] | None:
        """Return the destination before a rule redirected the connection; None if not redirected. One system call."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request of *peer*."""

    peer: str
    request: str
    """NMI's id: in each log line, and in the field x-ms-request-id of an error."""
    client_request: str = ""
    """The client's id, x-ms-client-request-id; empty if it is not printable."""

    @classmethod
    def of(cls, origin: Origin, request: Request | None = None) -> Self:
        """Return a new call. *request* is None if it could not be read."""
        given = () if request is None else request.values("x-ms-client-request-id")
        shown = given[0][:CLIENT_REQUEST_CHARS] if given else ""
        return cls(origin.peer, next(_ids), shown if shown.isascii() and shown.isprintable() else "")


_PROCESS: Final = secrets.token_hex(8)
_ids: Final = (
    f"{_PROCESS[:8]}-{_PROCESS[8:12]}-4{_PROCESS[12:15]}-8{number >> 48 & 0xFFF:03x}-{number & 0xFFFFFFFFFFFF:012x}"
    for number in itertools.count(secrets.randbits(32))
)
"""Ids in the form of UUIDs (RFC 9562, version 4): random per process, then counted. Unique and cheap, not secret."""
