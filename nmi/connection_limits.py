"""The number of connections and the size of their buffers, from the memory limit of the container. Pure."""

from typing import Final

import msgspec

from nmi.settings import Settings

PART: Final = 4
"""Connections may use a quarter of the memory limit, in the kernel and in NMI: NMI itself needs 50 to 110 MiB."""
UNLIMITED_BYTES: Final = 512 << 20
"""Memory of all connections if there is no memory limit."""
LEAST_BYTES: Final = 8 << 20
PLACE_BYTES: Final = 16 << 10
"""Memory per connection: a full receive buffer, the objects, and a complete response that waits."""
PLACES_MOST: Final = 8192
"""A node runs up to 250 pods, whose SDKs keep a few connections each."""
PLACES_PER_POD: Final = (256, 512)
"""200 concurrent requests from one pod occur in practice. Sixteen pods together may use all connections."""
RECEIVE_BYTES: Final = (4 << 10, 16 << 10)
"""Receive buffer of a connection, which the kernel doubles: several usual heads, or one of the largest size."""
SEND_BYTES: Final = (8 << 10, 64 << 10)
"""Send buffer of a connection: an ordinary response, or a ready answer of the largest size."""


class ConnectionLimits(msgspec.Struct, frozen=True):
    """The limits of the listener's connections."""

    places: int
    places_per_pod: int
    memory_bytes: int
    """All connections together, kernel buffers included."""
    receive_bytes: int
    """A connection's receive buffer, before the kernel doubles it."""
    send_bytes: int
    warnings: tuple[str, ...] = ()
    """Each flag that allows more than the memory limit, with the next action."""


def connection_limits(settings: Settings, memory_limit: int | None) -> ConnectionLimits:
    """Return the limits for a container of *memory_limit* bytes (None: no limit). Flags take precedence."""
    fits = UNLIMITED_BYTES if memory_limit is None else max(LEAST_BYTES, memory_limit // PART)
    memory = settings.max_connection_bytes or fits
    most = max(1, memory // PLACE_BYTES)
    places = settings.max_connections or max(min(PLACES_MOST, most), settings.max_connections_per_pod)
    least, usual = PLACES_PER_POD
    per_pod = settings.max_connections_per_pod or min(usual, max(least, places // 16), places)
    smallest, largest = RECEIVE_BYTES
    receive = min(largest, max(smallest, memory >> 15))
    smallest, largest = SEND_BYTES
    send = min(largest, max(smallest, memory >> 14 if memory < UNLIMITED_BYTES else largest))
    warnings = []
    if memory > fits:
        warnings.append(
            f"--max-connection-bytes is {memory}, and {fits} are a quarter of the container's memory limit: raise that "
            f"limit, or lower the flag"
        )
    if places > most:
        warnings.append(
            f"connections may be {places}, and {most} fit the {memory} bytes that they may use: raise the container's "
            f"memory limit, or lower --max-connections and --max-connections-per-pod"
        )
    return ConnectionLimits(places, per_pod, memory, receive, send, tuple(warnings))
