__pyx_capi__: dict[str, object]
"""C functions for the lane."""
