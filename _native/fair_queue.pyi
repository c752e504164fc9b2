from typing import final

@final
class FairQueue:
    """Who waits for a turn in a lane; made and used by the lane only."""

    def __init__(self) -> None: ...
