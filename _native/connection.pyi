from typing import Protocol, final

from typing_extensions import disjoint_base

class GeneralLane(Protocol):
    """What one connection hands its bytes to when they are not fast-lane material.

    Every method is called on the loop's thread and may call any method of its Connection. An exception out of one
    closes the connection and nothing else.
    """

    def data_received(self, data: bytes) -> None:
        """The next bytes, from the first one of a request on, up to the next blank line or as many as there are.

        The first call after resume() begins a new request. Between two calls other peers have their turn.
        """
    def peer_gone(self) -> None:
        """The peer closed its side, or all of it, while a request was being answered: whoever waits may stop."""
    def connection_lost(self) -> None:
        """The connection is closed; called exactly once, never from within a call to Connection, nothing after it."""

@disjoint_base
class Owner:
    """What a connection needs of the lane that accepted it; made as a Lane only."""

@final
class Peer:
    """What a lane keeps of one address; made and used by the lane only."""

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
        """Where the peer meant to connect before a nat rule redirected it (SO_ORIGINAL_DST); None if not redirected.

        None as well where the kernel tracks no connections (ENOPROTOOPT) or not this one (ENOENT). Two system calls.
        """
    def write(self, data: bytes) -> None:
        """Send, in order; what the socket does not take at once is kept and sent when it can be."""
    def finish(self) -> None:
        """Close once everything written has been sent. The peer is given 1 s to read it and close its side."""
    def pause(self) -> None:
        """Read nothing more until resume(): a request is being answered. A peer that goes is still noticed."""
    def resume(self) -> None:
        """Everything received has been answered: the next bytes begin a new head and the fast lane looks first."""
