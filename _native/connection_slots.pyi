from typing import final

@final
class Peer:
    """A lane's record of one address. Created and used by the lane only."""

@final
class ConnectionSlots:
    """The connection slots of a lane by peer. Created and used by the lane only."""

    def __init__(self, per_peer: int) -> None: ...
