from typing import final

@final
class Memory:
    """The memory of a lane's connections. Created and used by the lane only."""

    def __init__(self, bound_bytes: int, send_bytes: int) -> None: ...
