from typing import final

@final
class Limits:
    """The listener's limits; the .pyx contains the reasons for the defaults. Times are seconds.

    *head_seconds* runs from the first byte of a request until the general lane calls pause(), so it covers a body too.
    *receive_bytes* and *send_bytes* are a connection's buffers in the kernel, *memory_bytes* the bound of all
    connections together, in the kernel and in this process; 0 means no bound. *defer_accept* leaves silent connections
    in the kernel (TCP_DEFER_ACCEPT): cheaper, but the limits do not count them. Raise ValueError for a limit under 1
    and for a time that is not above 0 and at most a day.
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
        receive_bytes: int = 16384,
        send_bytes: int = 65536,
        memory_bytes: int = 0,
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
