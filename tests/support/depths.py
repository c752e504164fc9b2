"""JSON that is nested too deep for the decoder of this interpreter."""

from typing import Final

import msgspec


def decodes(levels: int) -> bool:
    """Return whether this interpreter decodes so many levels. Python 3.14 measures the stack."""
    try:
        msgspec.json.decode(b"[" * levels + b"]" * levels)
    except RecursionError:
        return False
    return True


TOO_DEEP: Final = 300_000 if decodes(3000) else 3000
"""Levels of a field that no projection has. The decoder does not build their values, so it needs less stack."""
TOO_DEEP_VALUE: Final = 32_000
"""Levels of a value that is decoded, on each interpreter."""


def brackets(size: int, levels: int = TOO_DEEP) -> bytes:
    """Return arrays of so many *levels*, joined by commas, of about *size* bytes or one array."""
    return b",".join([b"[" * levels + b"]" * levels] * max(1, size // (2 * levels)))
