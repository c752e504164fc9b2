"""The limits of the listener's connections, from the memory limit of the container. Pure."""

from typing import Final

from _native.limits import Limits
from nmi.settings import NmiSettings

PART: Final = 4
"""Connections may use a quarter of the memory limit, in the kernel and in NMI: NMI itself needs 50 to 110 MiB."""
UNLIMITED_BYTES: Final = 512 << 20
"""Memory of all connections if there is no memory limit."""
LEAST_BYTES: Final = 8 << 20
SLOT_BYTES: Final = 16 << 10
"""Memory per connection: a full receive buffer, the objects, and a complete response that waits."""
SLOTS_MOST: Final = 8192
"""A node runs up to 250 pods, whose SDKs keep a few connections each."""
SLOTS_PER_POD: Final = (256, 512)
"""200 concurrent requests from one pod occur in practice. Sixteen pods together may use all connections."""
RECEIVE_BYTES: Final = (4 << 10, 16 << 10)
"""Receive buffer of a connection, which the kernel doubles: several usual heads, or one of the largest size."""
SEND_BYTES: Final = (8 << 10, 64 << 10)
"""Send buffer of a connection: an ordinary response, or a ready response of the largest size."""
FIRST_BYTE_SECONDS: Final = 10.0
"""SDKs send immediately; a silent connection is a probe or an attack."""
HEAD_SECONDS: Final = 10.0
"""From the first byte to the end of a request, including its body: a segment or two."""
IDLE_SECONDS: Final = 120.0
"""Longer than the 60 to 90 s for which HTTP clients keep idle connections, so that clients close first."""
WRITE_SECONDS: Final = 30.0
"""From the first byte that the socket did not accept until everything is sent."""


def connection_limits(settings: NmiSettings, memory_limit: int | None) -> Limits:
    """Return the limits for a container of *memory_limit* bytes (None: no limit)."""
    memory = UNLIMITED_BYTES if memory_limit is None else max(LEAST_BYTES, memory_limit // PART)
    slots = max(min(SLOTS_MOST, memory // SLOT_BYTES), settings.max_connections_per_pod)
    least, usual = SLOTS_PER_POD
    smallest_receive, largest_receive = RECEIVE_BYTES
    smallest_send, largest_send = SEND_BYTES
    return Limits(
        connections=slots,
        connections_per_peer=settings.max_connections_per_pod or min(usual, max(least, slots // 16), slots),
        receive_bytes=min(largest_receive, max(smallest_receive, memory >> 15)),
        send_bytes=max(smallest_send, memory >> 14) if memory < UNLIMITED_BYTES else largest_send,
        memory_bytes=memory,
        first_byte_seconds=FIRST_BYTE_SECONDS,
        head_seconds=HEAD_SECONDS,
        idle_seconds=IDLE_SECONDS,
        write_seconds=WRITE_SECONDS,
    )


def excess(limits: Limits) -> str:
    """Return which flag allows more connections than fit their memory, with the next action; empty if none does."""
    most = limits.memory_bytes // SLOT_BYTES
    if limits.connections <= most:
        return ""
    return (
        f"connections may be {limits.connections}, and {most} fit the {limits.memory_bytes} bytes that they may use: "
        f"raise the container's memory limit, or lower --max-connections-per-pod"
    )
