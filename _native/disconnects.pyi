from typing import final

@final
class Disconnects:
    """What ended, and what failed, on the connections of one lane; made and used by the lane only."""

    def __init__(self) -> None: ...
    @property
    def failed(self) -> int: ...
