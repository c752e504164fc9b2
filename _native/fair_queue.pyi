from typing import final

@final
class FairQueue:
    """The waiting connections of a lane by peer, served round-robin. Created and used by the lane only."""

    def __init__(self) -> None: ...
