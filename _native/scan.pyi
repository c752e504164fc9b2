from typing import Literal

def examine(data: bytes) -> tuple[Literal["refused", "more", "done"], int, bytes, bool, bool]:
    """Return the fast lane's reading of the head at the start of *data*. For tests and debugging.

    The result contains the outcome and, for "done", the head's size in bytes, its raw query, and whether
    `Metadata: true` and `Connection: close` are present. "refused" means that the general lane handles the request.
    """

__pyx_capi__: dict[str, object]
"""C functions for other compiled modules."""
