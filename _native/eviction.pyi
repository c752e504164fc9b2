from typing import final

from _native.connection_slots import ConnectionSlots

@final
class Eviction:
    """The eviction of a lane's connections. Created and used by the lane only."""

    def __init__(self, slots: ConnectionSlots) -> None: ...

__pyx_capi__: dict[str, object]
"""C functions for the lane."""
