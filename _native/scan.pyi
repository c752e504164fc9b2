from typing import Literal

def examine(data: bytes) -> tuple[Literal["refused", "more", "done"], int, bytes, bool, bool]:
    """What the fast lane makes of the head that *data* begins with: for tests and for people.

    The outcome, and with "done" the head's size in bytes, its raw query, whether `Metadata: true` and
    `Connection: close` were there. "refused" sends a request to the general lane; it is no answer by itself.
    """

__pyx_capi__: dict[str, object]
"""What the other compiled rooms call."""
