from typing import final

@final
class Redirects:
    """Test for connections that a nat rule redirected from one address. Created and used by the lane only."""

    def __init__(self, address: str, port: int) -> None: ...

__pyx_capi__: dict[str, object]
"""C functions for other compiled modules."""
