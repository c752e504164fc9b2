from typing import Protocol, final

from typing_extensions import disjoint_base

class ConnectionReceiver(Protocol):
    """The receiver of one connection's bytes that the fast lane does not handle.

    Every method is called on the loop's thread and may call any method of its Connection. An exception from a method
    closes this connection only.
    """

    def data_received(self, data: bytes) -> None:
        """Receive the next bytes, from the start of a request, up to the next blank line or the last received byte.

        The first call after resume() starts a new request. Other peers are served between two calls.
        """
    def peer_gone(self) -> None:
        """React to a peer that closed one or both directions while its request was being answered."""
    def connection_lost(self) -> None:
        """React to the closed connection. The last call, made exactly once and never inside a call to Connection."""

@disjoint_base
class LaneState:
    """The state that a lane shares with its connections. Created as a Lane only."""

@final
class Connection:
    """One accepted connection. Created by the lane only, valid until connection_lost; later calls do nothing."""

    def __init__(self) -> None:
        """Raise TypeError."""
    @property
    def peer(self) -> str:
        """The peer's IPv4 address, dotted."""
    @property
    def open(self) -> bool:
        """Whether written data would be sent: the connection is neither closed nor finished."""
    def was_redirected(self) -> bool:
        """Return whether the lane's redirected_from matched when the connection was accepted; True without it."""
    def original_destination(self) -> tuple[str, int] | None:
        """Return the destination before a nat rule redirected the connection (SO_ORIGINAL_DST); None if not redirected.

        Also None if the kernel tracks no connections (ENOPROTOOPT) or not this one (ENOENT). Two system calls.
        """
    def write(self, data: bytes) -> None:
        """Send *data* in order. Bytes that the socket does not accept are kept and sent as soon as possible."""
    def finish(self) -> None:
        """Close when everything written has been sent. The peer has 1 s to read it and close its side."""
    def pause(self) -> None:
        """Stop reading until resume(): a request is being answered. A disconnect of the peer is still reported."""
    def resume(self) -> None:
        """Report that everything received is answered: the next bytes start a new head, for the fast lane first."""
