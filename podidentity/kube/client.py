"""Requests to the API server: raw bytes in and out, every error mapped in one place, a time limit on each.

The typed verbs on top decode with msgspec (`kube.decoding`). What is above this module never sees aiohttp.
"""

import asyncio
import builtins
import logging
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from podidentity.kube.access import ClusterAccess
from podidentity.kube.decoding import Malformed, RawPage, decode_object, split_list
from podidentity.kube.errors import Gone, Invalid, ServerError, Unauthorized, Unreachable, from_answer
from podidentity.resources import Kind, Resource

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Resource)

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"

CONNECTIONS_MAX: Final = 32
"""More at once would only queue in the API server's own fairness."""
BODY_MAX: Final = 256 * 1024 * 1024
"""A page of 10,000 pods is about 80 MB; what is bigger is not an answer to any question of ours."""
ERROR_BODY_MAX: Final = 64 * 1024
LINE_MAX: Final = 16 * 1024 * 1024
"""etcd stores objects of up to 1.5 MiB; JSON and the watch's envelope cannot make one ten times longer."""
CHUNK: Final = 256 * 1024
"""aiohttp pauses reading from the socket at twice this many buffered bytes."""
CONNECT_SECONDS: Final = 10.0
PAGE_SIZE: Final = 500


class Client:
    """One API server, one connection pool. Close it with `aclose()` or `async with`.

    Every method raises ApiError or a subclass of it. Cancellation ends the request and frees its connection.
    """

    def __init__(
        self,
        access: ClusterAccess,
        *,
        user_agent: str,
        timeout_seconds: float = 30.0,
        connections: int = CONNECTIONS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.access = access
        self._timeout_seconds = timeout_seconds
        self._connections = connections
        # No compression: inflating a large list costs more than loopback or a data centre's network ever would.
        self._headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"}
        self._session: aiohttp.ClientSession | None = None
        self._clock = clock
        self._answered_at = -math.inf

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, also those of open streams. May be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def silent_seconds(self) -> float:
        """Since the API server last began an answer, of whatever status; infinite before the first."""
        return self._clock() - self._answered_at

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_seconds: float | None = None,
    ) -> bytes:
        """The body of a 2xx answer. *timeout_seconds* (the client's, if None) covers all of it, a 401's repeat too."""
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        headers = {"Content-Type": content_type} if body is not None else {}
        try:
            async with asyncio.timeout(seconds):
                response = await self._send(method, path, params, headers, body)
                try:
                    return await _read(response.content, BODY_MAX)
                finally:
                    response.release()
        except TimeoutError as error:
            raise Unreachable(f"no answer from {self.access.server} within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    def stream(self, path: str, params: Mapping[str, str]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A GET whose answer is read line by line for as long as it lasts; the caller owns the deadline on silence.

        Up to the answer's head the client's time limit holds. The iterator ends where the server ended the answer
        cleanly and raises Unreachable where it broke off. Leaving the context closes the connection.
        """
        return self._stream(path, params)

    @asynccontextmanager
    async def _stream(self, path: str, params: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._send("GET", path, params, {}, None)
        except TimeoutError as error:
            raise Unreachable(f"no answer from {self.access.server} within {self._timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        lines = self._lines(response.content)
        try:
            yield lines
        finally:
            await lines.aclose()
            response.close()

    async def _lines(self, content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
        pending = bytearray()
        while True:
            try:
                chunk = await content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise self._unreachable(error) from error
            if not chunk:
                if pending:
                    raise Unreachable(f"{self.access.server} broke off in the middle of a line")
                return
            *complete, rest = chunk.split(b"\n")
            if complete:
                pending += complete[0]
                yield bytes(pending)
                for line in complete[1:]:
                    yield line
                pending = bytearray(rest)
            else:
                pending += rest
            if len(pending) > LINE_MAX:
                raise Unreachable(f"{self.access.server} sent a line of more than {LINE_MAX} bytes")

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> aiohttp.ClientResponse:
        """An answer of 2xx with its body unread. A 401 is tried once more with credentials that were read again."""
        try:
            return await self._send_once(method, path, params, headers, body)
        except Unauthorized:
            self.access.forget()
        return await self._send_once(method, path, params, headers, body)

    async def _send_once(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> aiohttp.ClientResponse:
        authorization = await self.access.authorization()
        url = self.access.server + path + ("?" + urlencode(params) if params else "")
        response = await self._open_session().request(
            method,
            URL(url, encoded=True),
            data=body,
            headers={**headers, **({"Authorization": authorization} if authorization else {})},
            ssl=self.access.ssl or True,
            server_hostname=self.access.server_hostname,
            proxy=self.access.proxy,
            # An API server never redirects; following one would carry our credentials to whoever it names.
            allow_redirects=False,
        )
        self._answered_at = self._clock()
        if 200 <= response.status < 300:
            return response
        try:
            told = await _read(response.content, ERROR_BODY_MAX)
        finally:
            response.release()
        raise from_answer(response.status, told, response.headers.get("Retry-After", ""))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(self._connections),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                read_bufsize=CHUNK,
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _connector(self, limit: int) -> aiohttp.BaseConnector:
        return aiohttp.TCPConnector(limit=limit)

    def _unreachable(self, error: Exception) -> Unreachable:
        # aiohttp's own words for a failed connection hold the repr of our SSL context.
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        return Unreachable(f"cannot reach {self.access.server}: {str(cause) or type(cause).__name__}")

    async def get(self, kind: Kind[R], namespace: str, name: str) -> R:
        """The object as it is stored now."""
        return _decode(kind, await self.request("GET", object_path(kind, namespace, name)))

    async def list(
        self, kind: Kind[R], namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> builtins.list[R]:
        """All objects (of one namespace, if given), read in pages, and all of one moment.

        An object that cannot be read is left out, with a line in the log.
        """
        items: builtins.list[R] = []
        async for page in self.pages(kind, namespace, field_selector=field_selector, label_selector=label_selector):
            if page.first:
                items = []
            for raw in page.items:
                try:
                    items.append(decode_object(kind, raw))
                except Malformed as error:
                    log.warning(
                        "an object cannot be read and is left out; correct or delete it",
                        extra={"resource": kind.plural, "error": error},
                    )
        return items

    async def pages(
        self,
        kind: Kind[R],
        namespace: str = "",
        *,
        field_selector: str = "",
        label_selector: str = "",
        page_size: int = PAGE_SIZE,
    ) -> AsyncGenerator[RawPage, None]:
        """The undecoded pages of one list. A page with `first` set means: forget what came before.

        With an expired continue token (Gone) the server offers another one that goes on in a later snapshot. It is
        not used: objects before it would be of the older snapshot, and a watch begun at the later one never tells what
        happened to them in between. The list begins anew instead, at the second time in one piece.
        """
        chosen = selectors(field_selector, label_selector)
        limit, token, first, failed = page_size, "", True, False
        while True:
            asked = {**chosen, "limit": str(limit)} if limit else dict(chosen)
            if token:
                asked["continue"] = token
            try:
                page = split_list(await self.request("GET", object_path(kind, namespace), params=asked))
            except Gone:
                if not token:
                    raise
                limit, token, first, failed = (0 if failed else limit), "", True, True
                continue
            except Malformed as error:
                raise _garbled(kind, error) from error
            yield msgspec.structs.replace(page, first=first)
            token, first = page.continue_token, False
            if not token:
                return

    async def create(self, kind: Kind[R], namespace: str, document: Mapping[str, Any]) -> R:
        """The stored object. *document* need not name its kind and apiVersion."""
        return _decode(kind, await self.request("POST", object_path(kind, namespace), body=_encode(kind, document)))

    async def replace(self, kind: Kind[R], namespace: str, name: str, document: Mapping[str, Any]) -> R:
        """PUT; with metadata.resourceVersion in *document* it raises Conflict unless that is still the stored one."""
        return _decode(
            kind, await self.request("PUT", object_path(kind, namespace, name), body=_encode(kind, document))
        )

    async def patch_json(
        self, kind: Kind[R], namespace: str, name: str, operations: Sequence[Mapping[str, Any]], subresource: str = ""
    ) -> R:
        """RFC 6902; raises Invalid where a `test` operation fails or a removed path is missing."""
        path = object_path(kind, namespace, name, subresource)
        body = msgspec.json.encode(operations)
        return _decode(kind, await self.request("PATCH", path, body=body, content_type=JSON_PATCH))

    async def patch_merge(self, kind: Kind[R], namespace: str, name: str, document: Mapping[str, Any]) -> R:
        """RFC 7386: null removes, maps merge, lists are replaced."""
        body = msgspec.json.encode(document)
        return _decode(
            kind,
            await self.request("PATCH", object_path(kind, namespace, name), body=body, content_type=MERGE_PATCH),
        )

    async def delete(self, kind: Kind[R], namespace: str, name: str, *, uid: str | None = None) -> None:
        """Ask for deletion; an object with finalizers goes when they do. With *uid*, Conflict for a namesake."""
        options = {"preconditions": {"uid": uid}} if uid is not None else {}
        body = msgspec.json.encode({"kind": "DeleteOptions", "apiVersion": "v1", **options})
        await self.request("DELETE", object_path(kind, namespace, name), body=body)


def selectors(field_selector: str, label_selector: str) -> dict[str, str]:
    """The query parameters of a list or watch that chooses; those that are empty are left out."""
    named = {"fieldSelector": field_selector, "labelSelector": label_selector}
    return {name: value for name, value in named.items() if value}


def object_path(kind: Kind[R], namespace: str = "", name: str = "", subresource: str = "") -> str:
    """`Kind.path` of names that are safe in a path. Raises Invalid for one that no object can have.

    A name may come out of somebody's object: `../../secrets` must not choose another resource.
    """
    for part in (namespace, name):
        if part and (not _NAME.fullmatch(part) or part in {".", ".."}):
            raise Invalid(422, "Invalid", f"{part[:64]!r} is not the name of a {kind.name} or namespace")
    return kind.path(namespace, name, subresource)


_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")


def _encode(kind: Kind[R], document: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": kind.api_version, "kind": kind.name, **document})


def _decode(kind: Kind[R], data: bytes) -> R:
    try:
        return decode_object(kind, data)
    except Malformed as error:
        raise _garbled(kind, error) from error


def _garbled(kind: Kind[R], error: Malformed) -> ServerError:
    return ServerError(502, "Malformed", f"the answer about {kind.plural} cannot be read: {error}")


async def _read(content: aiohttp.StreamReader, most: int) -> bytes:
    """The body up to *most* bytes. An error's body that goes on is cut; an answer's is too long to use."""
    chunks: builtins.list[bytes] = []
    size = 0
    while size < most and (chunk := await content.readany()):
        chunks.append(chunk)
        size += len(chunk)
    if size >= most == BODY_MAX:
        raise Unreachable(f"an answer of more than {most} bytes")
    return b"".join(chunks)
