def next_request_id() -> str:
    """Return a new id in the form of a UUID: unique, not secret."""

__pyx_capi__: dict[str, object]
"""C functions for other compiled modules."""
