import asyncio
import socket
from collections.abc import Callable
from typing import Protocol, final

from _native.index import Index

class GeneralLane(Protocol):
    """What one connection hands its bytes to when they are not fast-lane material.

    Every method is called on the loop's thread and may call any method of its Connection. An exception out of one
    closes the connection and nothing else.
    """

    def data_received(self, data: bytes) -> None:
        """The next bytes, from the first one of a request on; the first call after resume() begins a new request."""
    def peer_gone(self) -> None:
        """The peer closed its side, or all of it, while a request was being answered: whoever waits may stop."""
    def connection_lost(self) -> None:
        """The connection is closed; called exactly once, never from within a call to Connection, nothing after it."""

@final
class Limits:
    """Named limits of the listener, each with a default and its reason in the .pyx. Times are seconds.

    *head_seconds* runs from the first byte of a request until the general lane calls pause(), so it bounds a body, too.
    *defer_accept* leaves silent connections in the kernel (TCP_DEFER_ACCEPT): cheaper, but the limits do not see them.
    Raises ValueError for a limit under 1 and a time that is not more than 0 and at most a day.
    """

    def __init__(
        self,
        *,
        connections: int = 8192,
        connections_per_peer: int = 512,
        first_byte_seconds: float = 10.0,
        head_seconds: float = 10.0,
        idle_seconds: float = 120.0,
        write_seconds: float = 30.0,
        defer_accept: bool = False,
    ) -> None: ...
    @property
    def connections(self) -> int: ...
    @property
    def connections_per_peer(self) -> int: ...
    @property
    def defer_accept(self) -> bool: ...

@final
class Connection:
    """One accepted connection; made by the lane only, valid until connection_lost. Calls after that do nothing."""

    def __init__(self) -> None:
        """Raises TypeError."""
    @property
    def peer(self) -> str:
        """The peer's IPv4 address, dotted."""
    @property
    def open(self) -> bool:
        """Whether something written now would still be sent: neither closed nor finished."""
    def original_destination(self) -> tuple[str, int] | None:
        """Where the peer meant to connect before a nat rule redirected it (SO_ORIGINAL_DST); None if not redirected."""
    def write(self, data: bytes) -> None:
        """Send, in order; what the socket does not take at once is kept and sent when it can be."""
    def finish(self) -> None:
        """Close once everything written has been sent. The peer is given 1 s to read it and close its side."""
    def pause(self) -> None:
        """Read nothing more until resume(): a request is being answered. A peer that goes is still noticed."""
    def resume(self) -> None:
        """Everything received has been answered: the next bytes begin a new head and the fast lane looks first."""

@final
class Lane:
    """The listener and its connections, on an epoll descriptor of their own that is registered in the loop."""

    def __init__(
        self,
        *,
        index: Index,
        general: Callable[[Connection], GeneralLane],
        limits: Limits,
        require_metadata: bool = True,
    ) -> None:
        """Raises OSError when there is no descriptor for it."""
    def start(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        """Serve *listener* (bound, listening, non-blocking; the caller goes on owning it).

        Raises ValueError for a listener that is none of that, RuntimeError when called again.
        """
    def stop_accepting(self) -> None:
        """Leave the listener alone from now on. Idempotent; what is connected is served as before."""
    def close_idle(self) -> int:
        """Close connections on which no request is pending; how many stay. Each of those closes after its answer."""
    def close(self) -> None:
        """Close everything, at once. Idempotent."""
    def counters(self) -> dict[str, int]:
        """accepted, open, refused_total (all places taken), refused_peer (one peer's places taken), timed_out,
        fast_answers, handed_over, failed (exceptions out of the general lane)."""
