from typing import final

@final
class Memory:
    """What the connections of a lane hold in memory; made and used by the lane only."""

    def __init__(self, limit_bytes: int, send_bytes: int) -> None: ...
