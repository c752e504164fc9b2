from typing import final

@final
class ConnectionSlots:
    """Which peer holds which of a lane's places, and who gives one up; made and used by the lane only."""

    def __init__(self, per_peer: int) -> None: ...

__pyx_capi__: dict[str, object]
"""What the lane calls."""
