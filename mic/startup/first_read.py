"""Garbage collection while MIC reads the whole cluster for the first time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

FULL_COLLECTION_AFTER: Final = 1000
"""Collections of the middle generation before a full one: some 7 million objects, instead of 70,000."""


@contextmanager
def few_full_collections() -> Iterator[None]:
    """Make full garbage collections rare in this context.

    Nearly all objects that the first lists create stay alive. Full collections would scan them again and again and find
    nothing. Young objects are collected as usual, so that garbage in cycles stays bounded however long the context
    lasts, for example during an outage of the API server.
    """
    before = gc.get_threshold()
    gc.set_threshold(before[0], before[1], FULL_COLLECTION_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
