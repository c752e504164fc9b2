"""One call of the token server as it is known in logs: who makes it, and by which ids it can be found again.

A call is all that is kept of a request while it waits, so it holds neither the request nor its connection.
"""

import itertools
import secrets
from dataclasses import dataclass
from typing import Final, Protocol, Self

from nmi.server.request import Request

CLIENT_REQUEST_CHARS: Final = 64
"""Of the id that a client chose; SDKs send a UUID."""


class Origin(Protocol):
    """Where requests come from: a connection, of which nothing else may be asked here."""

    @property
    def peer(self) -> str:
        """The peer's IPv4 address, dotted."""

    def original_destination(self) -> tuple[str, int] | None:
        """Where the peer meant to connect before a rule redirected it, None if none did. Costs a system call."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request of *peer*."""

    peer: str
    request: str
    """Our id for it, in the answer's field x-ms-request-id if that is an error, and in each line about it."""
    client_request: str = ""
    """The client's own, x-ms-client-request-id, as far as it may be shown."""

    @classmethod
    def of(cls, origin: Origin, request: Request | None = None) -> Self:
        """A new call; of a *request* that could not be read nothing is known."""
        given = () if request is None else request.values("x-ms-client-request-id")
        shown = given[0][:CLIENT_REQUEST_CHARS] if given else ""
        return cls(origin.peer, next(_ids), shown if shown.isascii() and shown.isprintable() else "")


_PROCESS: Final = secrets.token_hex(8)
_ids: Final = (
    f"{_PROCESS[:8]}-{_PROCESS[8:12]}-4{_PROCESS[12:15]}-8{number >> 48 & 0xFFF:03x}-{number & 0xFFFFFFFFFFFF:012x}"
    for number in itertools.count(secrets.randbits(32))
)
"""UUIDs in form (RFC 9562, version 4), random once for the process, then counted: unique and cheap, but no secrets."""
