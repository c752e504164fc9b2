"""One request, the record that waits for its response, and the interfaces of its connection."""

from typing import Final, Protocol, Self

import msgspec
from typing_extensions import override

from _native.request_ids import next_request_id
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import TokenRequest
from nmi.refusal import Refusal
from nmi.server.responses import StreamedResponse
from nmi.server.target import CanonicalPath

CLIENT_REQUEST_CHARS: Final = 64
"""The maximum length of a client's id; SDKs send a UUID."""


class Request(msgspec.Struct, frozen=True):
    """A request whose head has passed every check. Immutable; only its framing has been interpreted.

    `nmi.server.head` returns it without its body, and `nmi.server.reading` hands it on when the body has passed, too.
    """

    method: str
    target: str
    """As sent: visible ASCII without "#"."""
    fields: tuple[tuple[str, str], ...]
    """Lower-case names and values without surrounding white space, Latin-1, in the order sent."""
    http_1_0: bool
    keep_alive: bool
    """Whether the client expects another response on this connection."""
    length: int = 0
    """The length of the body that Content-Length announces."""
    chunked: bool = False
    """Whether the body is chunked; *length* is 0 then."""
    body: bytes = b""
    """The decoded body."""

    @override
    def __repr__(self) -> str:
        """Return the request line only: fields and body may contain secrets."""
        return f"Request({self.method!r}, {self.target!r})"

    def values(self, name: str) -> tuple[str, ...]:
        """Return every value of the field *name* (lower case) separately."""
        values: tuple[str, ...] = ()
        for field, value in self.fields:
            if field == name:
                values += (value,)
        return values


class Call(msgspec.Struct):
    """The record of one request until its response is sent.

    It refers to neither the request nor its connection: a request may have 32 kB and contain secrets, and its call
    may wait for a minute. The handlers set *path* and *token_request* before any work waits. The defaults are those of
    a request that could not be read.
    """

    peer: str
    """The peer's IPv4 address, dotted."""
    request_id: str
    """NMI's id: in each log line, and in the field x-ms-request-id of an error."""
    client_request_id: str = ""
    """The client's id, x-ms-client-request-id; empty if it is not printable."""
    path: CanonicalPath = CanonicalPath.OTHER
    token_request: TokenRequest | None = None
    """The parameters, if the call requests a token."""
    keep_alive: bool = False
    http_1_0: bool = False
    head_only: bool = False
    """Whether the response must have no body, because the method is HEAD."""
    begun_ns: int = 0
    """The time at which the request was complete, of time.monotonic_ns()."""
    unanswered: Refusal | None = None
    """The refusal of a token request if its time limit had ended when its client disconnected."""
    entry: PodEntry | None = None
    """The pod of such a request. The peer address may belong to another one by then."""

    @classmethod
    def of(cls, peer: str, begun_ns: int, request: Request | None = None) -> Self:
        """Return a new call. *request* is None if it could not be read."""
        if request is None:
            return cls(peer, next_request_id(), begun_ns=begun_ns)
        ids = request.values("x-ms-client-request-id")
        client_id = ids[0][:CLIENT_REQUEST_CHARS] if ids else ""
        return cls(
            peer,
            next_request_id(),
            client_id if client_id.isascii() and client_id.isprintable() else "",
            keep_alive=request.keep_alive,
            http_1_0=request.http_1_0,
            head_only=request.method == "HEAD",
            begun_ns=begun_ns,
        )


class Origin(Protocol):
    """The part of a connection's interface that shows how the caller reached NMI."""

    def was_redirected(self) -> bool:
        """Return whether a rule redirected the connection as the policy requires; True if it requires nothing."""

    def original_destination(self) -> tuple[str, int] | None:
        """Return the destination before a rule redirected the connection; None if not redirected. One system call."""


class Stream(Protocol):
    """The destination of a streamed response. Neither method waits for the peer to read."""

    def begin(self, response: StreamedResponse) -> None: ...
    def send(self, piece: bytes) -> None: ...
