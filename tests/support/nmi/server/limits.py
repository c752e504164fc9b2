"""Limits of a listener for tests."""

from typing import Any

from _native.limits import Limits
from nmi.connection_limits import FIRST_BYTE_SECONDS, HEAD_SECONDS, IDLE_SECONDS, WRITE_SECONDS, connection_limits
from nmi.settings import NmiSettings

USUAL = connection_limits(NmiSettings(node_name="n"), None)


def limits_with(**changes: Any) -> Limits:
    """Return NMI's limits without a memory limit, with *changes*."""
    usual = {
        "connections": USUAL.connections,
        "connections_per_peer": USUAL.connections_per_peer,
        "first_byte_seconds": FIRST_BYTE_SECONDS,
        "head_seconds": HEAD_SECONDS,
        "idle_seconds": IDLE_SECONDS,
        "write_seconds": WRITE_SECONDS,
        "receive_bytes": USUAL.receive_bytes,
        "send_bytes": USUAL.send_bytes,
        "memory_bytes": USUAL.memory_bytes,
    }
    return Limits(**{**usual, **changes})
