def examine(text: bytes) -> tuple[bytes, int, bytes, bytes] | None:
    """What the fast lane makes of a raw query: resource, selector kind, selector value in lower case, xms_cc.

    None sends a request to the general lane; it is no answer by itself. For tests and for people.
    """

__pyx_capi__: dict[str, object]
"""What the other compiled rooms call."""
