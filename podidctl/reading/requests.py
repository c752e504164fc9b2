"""Requests to the API server: concurrent ones, failed ones, and the server's clock.

Times of Events and of NMI's log come from the cluster. If the clock of the operator's machine differs from the
cluster's, a recent refusal would look old, or an old one recent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from podidctl.facts.model import ReadFailure, ServerState
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden, NoResponse, NotFound

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
BATCH: Final = 10
"""Concurrent requests."""
VERSION_SECONDS: Final = 10.0
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
    except NoResponse:
        raise
    except Forbidden as error:
        return ReadFailure(f"not allowed: {error.message}")
    except ApiError as error:
        return ReadFailure(str(error), is_forbidden=False)


async def or_none(read: Awaitable[T]) -> T | None:
    """Return the result of *read*, or None if the API server has no such object. Raises the other ApiErrors."""
    try:
        return await read
    except NotFound:
        return None


class Decision(msgspec.Struct, frozen=True):
    """The API server's decision about an access review."""

    allowed: bool = False
    reason: str = ""
    """Untrusted; RBAC names the binding and the role."""


class _Review(msgspec.Struct):
    status: Decision = Decision()


async def review_access(client: Client, kind: str, spec: Mapping[str, Any]) -> Decision:
    """Return the decision about a review of *kind*, which is not stored. Raises ApiError and msgspec.DecodeError."""
    body = msgspec.json.encode({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec})
    response = await client.request("POST", f"/apis/authorization.k8s.io/v1/{kind.lower()}s", body=body)
    return msgspec.json.decode(response, type=_Review).status


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


class _Version(msgspec.Struct):
    git_version: str = msgspec.field(name="gitVersion", default="")


async def read_server(client: Client) -> ServerState:
    """Return the version, and the clock by the response's Date. Raises NoResponse."""
    import aiohttp  # noqa: PLC0415  explain imports this module and needs no session of its own

    access = client.access
    authorization = await access.authorization()
    headers = {"Authorization": authorization} if authorization else {}
    limit = aiohttp.ClientTimeout(total=VERSION_SECONDS)
    loop = asyncio.get_running_loop()
    try:
        async with aiohttp.ClientSession(timeout=limit, trust_env=False, headers=headers) as session:
            sent, began = datetime.now(UTC), loop.time()
            async with session.get(
                f"{access.server}/version",
                ssl=access.ssl or True,
                server_hostname=access.server_hostname,
                proxy=access.proxy,
                allow_redirects=False,
            ) as response:
                seconds = loop.time() - began
                date = response.headers.get("Date", "")
                body = await _read_body(response.content)
    except TimeoutError as error:
        raise NoResponse(f"no response from {access.server} within {VERSION_SECONDS:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        raise NoResponse(f"cannot reach {access.server}: {str(cause) or type(cause).__name__}") from error
    try:
        version = msgspec.json.decode(body, type=_Version).git_version
    except (msgspec.DecodeError, UnicodeDecodeError):
        version = ""
    return server_clock(version, date, sent, seconds)


async def _read_body(content: "aiohttp.StreamReader") -> bytes:
    """Return the body, which may arrive in parts, up to BODY_MAX and a part."""
    body = b""
    async for part in content.iter_any():
        body += part
        if len(body) > BODY_MAX:
            break
    return body


def server_clock(version: str, date: str, sent: datetime, seconds: float) -> ServerState:
    """Return the server's state from the Date of a response to a request that was *sent* then and took *seconds*."""
    ahead = clock_difference(date, sent, seconds)
    return ServerState(version) if ahead is None else ServerState(version, ahead.total_seconds(), seconds / 2 + 0.5)
