from typing import final

@final
class Disconnects:
    """Disconnects and failures of the connections of one lane. Created and used by the lane only."""

    def __init__(self) -> None: ...
    @property
    def failed(self) -> int: ...
