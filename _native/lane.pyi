import asyncio
import socket
from collections.abc import Callable
from typing import final

from _native.connection import Connection, GeneralLane, Owner
from _native.index import Index
from _native.limits import Limits

__all__ = ["Lane", "Limits"]

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
        redirected_from: tuple[str, int] | None = None,
    ) -> None:
        """With *redirected_from*, a connection that was not made to that IPv4 address and port, and redirected from
        there, gets no fast answer: everything on it goes to the general lane.

        Raises OSError when there is no descriptor or *redirected_from* holds no IPv4 address, OverflowError
        when it holds no port.
        """
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
        """What has happened since the lane was made, in connections unless it says otherwise.

        accepted; open (now); refused_peer (one peer's places were taken); refused_total (all places were taken, and
        nobody owed one); evicted_idle and evicted_slow (closed to make room: one that was idle, and where none was one
        whose peer was slow or sent without waiting for answers); narrowed, refused_memory and evicted_memory (slowed
        down, not taken, and closed, for the memory that their peer held); memory_bytes (that all held when it was
        measured last); timed_out, and what of it is timed_out_first_byte, timed_out_head, timed_out_idle and
        timed_out_write; fast_answers and handed_over (requests); failed (exceptions out of the general lane, or no
        memory for a connection).
        """
