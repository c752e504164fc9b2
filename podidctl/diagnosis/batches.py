"""Concurrent requests of one kind: a slow connection to the API server delays a command once for each batch."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Final, TypeVar

T = TypeVar("T")

BATCH: Final = 10
"""Concurrent requests."""


async def in_batches(calls: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """Return the results of *calls* in their order. Raise the first exception after the others of its batch ended."""
    remaining, results = iter(calls), list[T]()
    while batch := list(islice(remaining, BATCH)):
        outcomes = await asyncio.gather(*(each() for each in batch), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            results.append(outcome)
    return results
