import asyncio
import socket
from collections.abc import Callable
from typing import final

from _native.connection import Connection, GeneralLane, Owner
from _native.index import Index

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
class Lane(Owner):
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
