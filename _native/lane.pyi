import asyncio
import socket
from collections.abc import Callable
from typing import final

from _native.connection import Connection, ConnectionReceiver, LaneState
from _native.index import Index
from _native.limits import Limits

__all__ = ["Lane", "Limits"]

@final
class Lane(LaneState):
    """The listeners and their connections, on their own epoll descriptor, which is registered in the loop."""

    def __init__(
        self,
        *,
        index: Index,
        general: Callable[[Connection], ConnectionReceiver],
        limits: Limits,
        require_metadata: bool = True,
        redirected_from: tuple[str, int] | None = None,
    ) -> None:
        """With *redirected_from*, only connections that were redirected from that IPv4 address and port get fast
        responses; all others are handed to the general lane.

        Raise OSError if no descriptor is available or *redirected_from* contains no IPv4 address, OverflowError if it
        contains no port.
        """
    def start(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        """Serve *listener* (bound, listening, non-blocking). The caller owns it.

        Raise ValueError for an unsuitable listener, RuntimeError on a second call.
        """
    def listen_on_node(self, listener: socket.socket, redirected_from: tuple[str, int] | None) -> None:
        """Also serve *listener*, a socket on the node's own address, which other machines reach.

        With *redirected_from*, serve only connections that a nat rule redirected from that IPv4 address and port.
        Others are closed with a reset before a byte is read: they use no slot of a peer. A connection that adopt() gets
        must be redirected from there, too, unless its local address is a loopback address. The caller owns *listener*,
        which meets the conditions of start(). Idempotent.

        Raise RuntimeError before start(), ValueError for an unsuitable listener, and as the constructor for
        *redirected_from*.
        """
    def stop_accepting(self, only: socket.socket | None = None) -> None:
        """Stop using every listener, or *only* this one. Idempotent; open connections are still served."""
    def accept_again(self, listener: socket.socket) -> None:
        """Undo stop_accepting(). The caller owns *listener*, the one that start() got or a duplicate of it."""
    def release_idle(self, most: int) -> list[int]:
        """Return the descriptors of connections without a pending request or response, *most* at most.

        The caller owns them; the lane has forgotten these connections, and nothing was closed. Bytes that the kernel
        has received and the lane has not read stay with the descriptor. Raise RuntimeError within a turn.
        """
    def adopt(self, fd: int) -> bool:
        """Serve a connection that another lane has released, and own *fd* in any case.

        The limits of accepted connections apply. Return False if the connection was closed because of them, or has
        ended.
        """
    def close_idle(self, silent: bool = True) -> int:
        """Close connections without a pending request; the others close after their response. Return their number.

        Without *silent*, accepted connections whose first byte has not arrived stay open.
        """
    def close(self) -> None:
        """Close all connections immediately. Idempotent."""
    @property
    def last_closed_unread(self) -> str:
        """The peer address of the connection that was last closed unread; 0.0.0.0 if there was none."""
    def counters(self) -> dict[str, int]:
        """Return counts since the lane was created, of connections unless stated otherwise.

        accepted; closed_unread (by listen_on_node's listener; not in accepted); open (now); refused_peer (all slots of
        the peer in use); refused_total (all slots in use, and none could be evicted); evicted_idle and evicted_slow
        (closed for a newcomer: an idle connection, or else one whose peer was slow or sent without waiting for
        responses); narrowed, refused_memory and evicted_memory (made narrow, refused, and closed because of their
        peer's memory); memory_bytes (of all connections in the last pass); timed_out and its parts
        timed_out_first_byte, timed_out_head, timed_out_idle and timed_out_write; fast_answers and handed_over
        (requests); failed (exceptions of the general lane, or no memory for a connection).
        """
