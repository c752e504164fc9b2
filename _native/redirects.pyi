from typing import final

@final
class Redirects:
    """Knows connections that a nat rule led here from one address; made and used by the lane only."""

    def __init__(self, address: str, port: int) -> None: ...

__pyx_capi__: dict[str, object]
"""What the other compiled rooms call."""
