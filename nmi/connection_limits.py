"""How many connections NMI takes and how large their buffers are, by the memory limit of its container. Pure."""

from dataclasses import dataclass
from typing import Final

from nmi.settings import Settings

PART: Final = 4
"""A quarter of the memory limit is for connections, in the kernel and in NMI: NMI itself needs 50 to 110 MiB."""
UNLIMITED_BYTES: Final = 512 << 20
"""For connections, where there is no memory limit."""
LEAST_BYTES: Final = 8 << 20
PLACE_BYTES: Final = 16 << 10
"""Of the bound, for each place: a filled receive buffer, the objects, and a whole answer that waits."""
PLACES_MOST: Final = 8192
"""A node runs up to 250 pods, whose SDKs keep a handful of connections each."""
PLACES_PER_POD: Final = (256, 512)
"""200 requests at the same time from one pod occur in practice. Sixteen pods together may take every place."""
RECEIVE_BYTES: Final = (4 << 10, 16 << 10)
"""Of a connection's receive buffer, which the kernel doubles: several usual heads, or a whole one of the largest."""
SEND_BYTES: Final = (8 << 10, 64 << 10)
"""Of its send buffer: an ordinary answer, or a whole ready answer of the largest size."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the connections of the listener may use."""

    places: int
    places_per_pod: int
    memory_bytes: int
    """All connections together, kernel buffers included."""
    receive_bytes: int
    """A connection's receive buffer, before the kernel doubles it."""
    send_bytes: int
    warnings: tuple[str, ...] = ()
    """Each flag that allows more than fits, with what to do."""


def connection_limits(settings: Settings, memory_limit: int | None) -> ConnectionLimits:
    """Return the limits for a container of *memory_limit* bytes (None: without one). Flags that are set win."""
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
