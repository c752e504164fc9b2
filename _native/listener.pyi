from typing import final

@final
class Listener:
    """One listening socket of a lane. Created and used by the lane only."""

    def __init__(self) -> None: ...
