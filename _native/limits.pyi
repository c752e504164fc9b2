from typing import final

@final
class Limits:
    """Named limits of the listener, each with a default and its reason in the .pyx. Times are seconds.

    *head_seconds* runs from the first byte of a request until the general lane calls pause(), so it bounds a body, too.
    *receive_bytes* and *send_bytes* are buffers of each connection in the kernel, *memory_bytes* what all connections
    may hold together, in the kernel and here; 0 means no bound.
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
