from typing import final

@final
class ConnectionSlots:
    """The connection slots of a lane by peer, and the eviction order. Created and used by the lane only."""

    def __init__(self, per_peer: int) -> None: ...

__pyx_capi__: dict[str, object]
"""C functions for the lane."""
