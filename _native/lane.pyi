import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from _native.index import Index

class GeneralLane(Protocol):
    """What one connection hands its bytes to when they are not fast-lane material."""

    def data_received(self, data: bytes) -> None: ...
    def peer_gone(self) -> None:
        """The peer closed its side, or all of it, while a request was being answered: whoever waits may stop."""
    def connection_lost(self) -> None:
        """The connection is closed; called exactly once, and nothing after it."""

class Limits:
    """Named limits of the listener, each with a default and its reason in the .pyx. Times are seconds."""

    def __init__(
        self,
        *,
        connections: int = ...,
        connections_per_peer: int = ...,
        first_byte_seconds: float = ...,
        head_seconds: float = ...,
        idle_seconds: float = ...,
        write_seconds: float = ...,
    ) -> None: ...

class Connection:
    """One accepted connection; made by the lane only, valid until connection_lost."""

    @property
    def peer(self) -> str:
        """The peer's IPv4 address, dotted."""
    @property
    def open(self) -> bool: ...
    def original_destination(self) -> tuple[str, int] | None:
        """Where the peer meant to connect before a nat rule redirected it (SO_ORIGINAL_DST); None if not redirected."""
    def write(self, data: bytes) -> None:
        """Send, in order; what the socket does not take at once is kept and sent when it can be."""
    def finish(self) -> None:
        """Close once everything written has been sent."""
    def pause(self) -> None:
        """Read nothing more until resume(): a request is being answered. A peer that goes is still noticed."""
    def resume(self) -> None:
        """Everything received has been answered: the next bytes begin a new head and the fast lane looks first."""

class Lane:
    """The listener and its connections, on an epoll descriptor of their own that is registered in the loop."""

    def __init__(
        self, *, index: Index, general: Callable[[Connection], GeneralLane], limits: Limits, require_metadata: bool = True
    ) -> None: ...
    def start(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        """Serve *listener* (bound, listening, non-blocking; the caller goes on owning it)."""
    def stop_accepting(self) -> None: ...
    def close_idle(self) -> int:
        """Close connections on which no request is pending; how many stay."""
    def close(self) -> None:
        """Close everything, at once. Idempotent."""
    def counters(self) -> dict[str, int]:
        """accepted, open, refused_total (all places taken), refused_peer (one peer's places taken), timed_out,
        fast_answers, handed_over."""
