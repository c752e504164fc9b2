"""Concurrent requests of one kind: a slow connection to the API server delays a command once for each batch."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from typing import Any, Final, TypeVar

T = TypeVar("T")

BATCH: Final = 10
"""Concurrent requests."""


async def in_batches(calls: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    """Return the results of *calls* in their order. Raise the first exception after the others of its batch ended."""
    remaining, results = iter(calls), list[T]()
    while batch := list(islice(remaining, BATCH)):
        tasks = [asyncio.create_task(each()) for each in batch]
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        results += [task.result() for task in tasks]
    return results
