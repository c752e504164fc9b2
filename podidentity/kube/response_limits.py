"""Limits on the size of the API server's responses, and of the parts in which they are read.

The readers use this module by its name, so that a test can change a limit in one place.
"""

from collections.abc import Iterator
from typing import Final

BODY_MAX: Final = 8 * 1024 * 1024
"""Bytes of a response that are in memory together. A page of 500 pods has about 4 MB. A larger page is requested again
in smaller ones, down to one object.
"""
OBJECT_MAX: Final = 8 * 1024 * 1024
"""Bytes of JSON of one object; a larger one is skipped. etcd stores up to 1.5 MiB, which JSON escapes can make 6 times
longer.
"""
LINE_MAX: Final = OBJECT_MAX + 4096
"""Bytes of a line of a watch: an object and its envelope."""
ERROR_BODY_MAX: Final = 64 * 1024
PIECE: Final = 16 * 1024
"""Bytes that are scanned between two pauses for the loop: 5 ms at most."""
PART_BYTES: Final = 2 * 1024 * 1024
"""Bytes of objects of a long response that are passed on together."""


def split_pieces(data: bytes) -> Iterator[bytes]:
    """Yield *data* in parts of PIECE bytes."""
    return (data[at : at + PIECE] for at in range(0, len(data), PIECE))
