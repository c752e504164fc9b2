"""One call of the token server: its caller and the ids under which logs contain it.

A call is the only part of a request that is kept while the request waits. It refers to neither the request nor its
connection.
"""

from typing import Final, Protocol, Self

import msgspec

from _native.request_ids import next_request_id
from nmi.server.request import Request

CLIENT_REQUEST_CHARS: Final = 64
"""The maximum length of a client's id; SDKs send a UUID."""


class Origin(Protocol):
    """The part of a connection's interface that identifies the caller."""

    @property
    def peer(self) -> str:
        """The peer's IPv4 address, dotted."""

    def was_redirected(self) -> bool:
        """Return whether a rule redirected the connection as the policy requires; True if it requires nothing."""

    def original_destination(self) -> tuple[str, int] | None:
        """Return the destination before a rule redirected the connection; None if not redirected. One system call."""


class Call(msgspec.Struct, frozen=True):
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
        return cls(origin.peer, next_request_id(), shown if shown.isascii() and shown.isprintable() else "")
