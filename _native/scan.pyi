from typing import Literal

def examine(data: bytes) -> tuple[Literal["refused", "more", "done"], int, bytes, bool, bool, int]:
    """Return the fast lane's reading of the head at the start of *data*. For tests and debugging.

    The result contains the outcome and, for "done", the head's size in bytes, its raw query, whether `Metadata: true`
    and `Connection: close` are present, and the kind of the request by its first line (1: a GET of the token path, else
    a number of nmi.server.ready_refusals.RequestKind). "refused" means that the general lane handles the request.
    """

__pyx_capi__: dict[str, object]
"""C functions for other compiled modules."""
