def examine(text: bytes) -> tuple[bytes, int, bytes, bytes] | None:
    """Return the fast lane's reading of a raw query: resource, selector kind, lower-case selector value, xms_cc.

    None means that the general lane handles the request. For tests and debugging.
    """

def has_no_resource(text: bytes) -> bool:
    """Return whether the fast lane recognises a raw query as one without a resource. For tests and debugging."""

__pyx_capi__: dict[str, object]
"""C functions for other compiled modules."""
