"""Requests to the API server: concurrent ones, failed ones, and the server's clock.

Times of Events and of NMI's log come from the cluster. If the clock of the operator's machine differs from the
cluster's, a recent refusal would look old, or an old one recent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from podidctl.facts.model import ReadFailure, ServerState
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden, NoResponse, NotFound, ServerError, TimedOut, malformed
from podidentity.kube.transport import read_body

T = TypeVar("T")
BATCH: Final = 10
"""Concurrent requests."""
BODY_MAX: Final = 1 << 16


async def in_batches(calls: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    """Return the results of *calls* in their order. Raise the first exception after the others of its batch ended.

    A slow connection delays a command once for each batch, instead of once for each call.
    """
    remaining, results = iter(calls), list[T]()
    while batch := list(islice(remaining, BATCH)):
        tasks = [asyncio.create_task(call()) for call in batch]
        try:
            await asyncio.wait(tasks)
        finally:
            # If the caller is cancelled, asyncio.wait leaves the tasks running.
            for task in tasks:
                task.cancel()
        results += [task.result() for task in tasks]
    return results


async def or_failure(read: Awaitable[T]) -> T | ReadFailure:
    """Return the result of *read*, or the reason of its failure. Raises NoResponse if the API server does not
    respond.
    """
    try:
        return await read
    # Each further request would wait for the whole time limit, too.
    except NoResponse:
        raise
    except ApiError as error:
        return _failure(error)


async def or_late(read: Awaitable[T]) -> T | ReadFailure:
    """Return the result of *read*, which a command can do without, or the reason of its failure, also if it takes too
    long. Raises the other NoResponses.
    """
    try:
        return await or_failure(read)
    except TimedOut as error:
        return _failure(error)


def _failure(error: ApiError) -> ReadFailure:
    if isinstance(error, Forbidden):
        return ReadFailure(f"not allowed: {error.message}")
    return ReadFailure(str(error), is_forbidden=False)


async def or_none(read: Awaitable[T]) -> T | None:
    """Return the result of *read*, or None if the API server has no such object. Raises the other ApiErrors."""
    try:
        return await read
    except NotFound:
        return None


def decoded(response: bytes, shape: type[T], subject: str) -> T:
    """Return the *response* about *subject* as *shape*. Raise ServerError if it is something else."""
    try:
        return msgspec.json.decode(response, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(subject, error) from error


class Decision(msgspec.Struct, frozen=True):
    """The API server's decision about an access review."""

    allowed: bool = False
    reason: str = ""
    """Untrusted; RBAC names the binding and the role."""


class _Review(msgspec.Struct):
    status: Decision = Decision()


async def review_access(client: Client, kind: str, spec: Mapping[str, Any]) -> Decision:
    """Return the decision about a review of *kind*, which is not stored. Raises ApiError."""
    body = msgspec.json.encode({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec})
    plural = f"{kind.lower()}s"
    response = await client.request("POST", f"/apis/authorization.k8s.io/v1/{plural}", body=body)
    return decoded(response, _Review, plural).status


class _Version(msgspec.Struct):
    git_version: str = msgspec.field(name="gitVersion", default="")


async def read_server(client: Client) -> ServerState:
    """Return the version, which is empty if it cannot be read, and the clock by the Date of any response."""
    loop = asyncio.get_running_loop()
    sent, began = datetime.now(UTC), loop.time()
    try:
        response = await client.open_response("/version", {})
    except ApiError as error:
        # A refusal has a Date too, so the clock is known even if the version is not.
        return replace(server_clock("", error.date, sent, loop.time() - began), failure=_failure(error))
    clock = server_clock("", response.headers.get("date", ""), sent, loop.time() - began)
    try:
        _, body = await client.in_time(read_body(response, BODY_MAX))
        return replace(clock, version=decoded(body, _Version, "the version").git_version)
    except NoResponse as error:
        return replace(clock, failure=_failure(error))
    except ServerError:
        return clock
    finally:
        response.close()


def server_clock(version: str, date: str, sent: datetime, seconds: float) -> ServerState:
    """Return the server's state from the Date of a response to a request that was *sent* then and took *seconds*."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return ServerState(version)
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    # The header has whole seconds, rounded down.
    ahead = theirs + timedelta(seconds=0.5) - (sent + timedelta(seconds=seconds / 2))
    return ServerState(version, ahead.total_seconds(), seconds / 2 + 0.5)
