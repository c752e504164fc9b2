"""Requests to the API server: concurrent ones, failed ones, and the server's clock.

Times of Events and of NMI's log come from the cluster. If the clock of the operator's machine differs from the
cluster's, a recent refusal would look old, or an old one recent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Final, TypeVar

from podidctl.facts.model import ReadFailure
from podidentity.kube.client import Client
from podidentity.kube.decoding import NoteIgnored
from podidentity.kube.errors import ApiError, Forbidden, NoResponse
from podidentity.resources import BareMeta, Kind

T = TypeVar("T")
BATCH: Final = 10
"""Concurrent requests."""


async def in_batches(calls: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    """Return the results of *calls* in their order. Raise the first exception after the others of its batch ended.

    A slow connection delays a command once for each batch, instead of once for each call.
    """
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


def noting(kind: Kind[Any], ignored: dict[tuple[str, str, str], tuple[str, ...]]) -> NoteIgnored:
    """Return a function that adds an object of *kind* and its ignored fields to *ignored*."""

    def note(meta: BareMeta, fields: tuple[str, ...]) -> None:
        ignored[kind.plural, meta.namespace, meta.name] = fields

    return note


async def or_failure(read: Awaitable[T]) -> T | ReadFailure:
    """Return the result of *read*, or the reason of its failure. Raises NoResponse if the API server does not
    respond.
    """
    try:
        return await read
    except NoResponse:
        raise
    except Forbidden as error:
        return ReadFailure(f"not allowed: {error.message}")
    except ApiError as error:
        return ReadFailure(str(error), is_forbidden=False)


def clock_difference(date: str, sent: datetime, seconds: float) -> timedelta | None:
    """Return how far the server's clock is ahead, by the Date of its response to a request that was *sent* then and
    took *seconds*; None without a usable date.
    """
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return None
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    # The header has whole seconds, rounded down.
    return theirs + timedelta(seconds=0.5) - (sent + timedelta(seconds=seconds / 2))


async def server_now(client: Client, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> datetime:
    """Return the time by the API server's clock; by this machine's (*now*) if the server does not state it. Raises
    NoResponse.
    """
    loop = asyncio.get_running_loop()
    sent, began = now(), loop.time()
    try:
        response = await client.open_response("/version", {})
    except NoResponse:
        raise
    except ApiError:
        return now()
    date = response.headers.get("date", "")
    response.close()
    return now() + (clock_difference(date, sent, loop.time() - began) or timedelta(0))
