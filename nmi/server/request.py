"""One whole request whose syntax has passed every check."""

import msgspec
from typing_extensions import override


class Request(msgspec.Struct, frozen=True):
    """A request. Immutable; only its framing has been interpreted."""

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
    """The decoded body. `nmi.server.reading` adds it to the request of `nmi.server.head`."""

    @override
    def __repr__(self) -> str:
        """Return the request line only: fields and body may contain secrets."""
        return f"Request({self.method!r}, {self.target!r})"

    def values(self, name: str) -> tuple[str, ...]:
        """Return every value of the field *name* (lower case) separately."""
        found: tuple[str, ...] = ()
        for each, value in self.fields:
            if each == name:
                found += (value,)
        return found
