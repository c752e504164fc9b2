from typing import final

@final
class Limits:
    """The listener's limits; `nmi.connection_limits` has their values and reasons. Times are seconds.

    *head_seconds* runs from the first byte of a request until the general lane calls pause(), so it covers a body too.
    *receive_bytes* and *send_bytes* are a connection's buffers in the kernel, *memory_bytes* the bound of all
    connections together, in the kernel and in this process; 0 means no bound. *defer_accept* leaves silent connections
    in the kernel (TCP_DEFER_ACCEPT): cheaper, but the limits do not count them. Raise ValueError for a limit under 1
    and for a time that is not above 0 and at most a day.
    """

    def __init__(
        self,
        *,
        connections: int,
        connections_per_peer: int,
        first_byte_seconds: float,
        head_seconds: float,
        idle_seconds: float,
        write_seconds: float,
        receive_bytes: int,
        send_bytes: int,
        memory_bytes: int,
        defer_accept: bool = False,
    ) -> None: ...
    @property
    def connections(self) -> int: ...
    @property
    def connections_per_peer(self) -> int: ...
    @property
    def receive_bytes(self) -> int: ...
    @property
    def send_bytes(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def defer_accept(self) -> bool: ...
