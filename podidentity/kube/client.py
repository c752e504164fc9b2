"""Requests to the API server: raw bytes, errors mapped to `kube.errors`, a time limit on each request.

The typed methods decode with msgspec (`kube.decoding`). Callers never see aiohttp.
"""

import asyncio
import builtins
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from podidentity.kube.access import ClusterAccess
from podidentity.kube.decoding import (
    SHALLOW_MAX,
    LongLine,
    Malformed,
    RawPage,
    Skipped,
    TooDeep,
    TooLarge,
    TooLong,
    decode_meta,
    decode_object,
    split_list,
)
from podidentity.kube.errors import Gone, Invalid, NoResponse, ServerError, Unauthorized, from_answer
from podidentity.kube.scanning import DEPTH_READABLE, Found, ScanError, Scanner
from podidentity.kube.skipped import SkippedObjects
from podidentity.object_limits import oversized
from podidentity.resources import BareMeta, Kind, Resource

R = TypeVar("R", bound=Resource)
V = TypeVar("V")

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"

CONNECTIONS_MAX: Final = 32
"""More connections would only wait in the API server's priority and fairness queues."""
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
"""Bytes of objects of a long answer that are handed on together."""
SHRINK: Final = 4
"""Divisor of the page size after a page that is too large, unless fewer objects fitted."""
_UID: Final = b'"uid":"'
"""Every object has it once, but so do owners and embedded objects, so the count is an estimate."""
MALFORMED: Final = "Malformed"
"""Reason of a ServerError for an unreadable response: the server works, and an object may be the cause."""
CHUNK: Final = 256 * 1024
"""aiohttp pauses reading from the socket at twice this many buffered bytes."""
CONNECT_SECONDS: Final = 10.0
PAGE_SIZE: Final = 500


class _TooLarge(Exception):  # noqa: N818 - named for what happened
    """A page has more than BODY_MAX bytes, of which about *objects* objects were read."""

    def __init__(self, objects: int) -> None:
        super().__init__()
        self.objects = objects


class Client:
    """One API server with one connection pool. Close it with `aclose()` or `async with`.

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
        # No compression: decompressing a large list costs more than its transfer in a data centre.
        self._headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"}
        self._session: aiohttp.ClientSession | None = None
        self._clock = clock
        self._answered_at = -math.inf
        self.skipped = SkippedObjects(clock)
        """Objects that lists and informers of this client skip."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, including open streams. May be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def silent_seconds(self) -> float:
        """Return seconds since the API server last began a response, whatever its status; infinite before the first."""
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
        """Return the body of a 2xx response. *timeout_seconds* (default: the client's) covers all of it, including a
        retry after a 401.
        """
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        headers = {"Content-Type": content_type} if body is not None else {}

        async def answer() -> bytes:
            response = await self._send(method, path, params, headers, body)
            try:
                whole, told = await _read(response.content, BODY_MAX)
            finally:
                response.release()
            if not whole:
                raise ServerError(502, MALFORMED, f"a response of more than {BODY_MAX} bytes")
            return told

        return await self._in_time(answer(), seconds)

    async def _in_time(self, work: Awaitable[V], seconds: float) -> V:
        """Return the result of *work*. Raises NoResponse after *seconds* or if the connection fails."""
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError as error:
            raise NoResponse(f"no response from {self.access.server} within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    def stream(
        self, path: str, params: Mapping[str, str]
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes | LongLine]]:
        """Send a GET and read its response line by line until it ends; the caller limits silence.

        Of a line of more than LINE_MAX bytes only the object's names are kept. The client's time limit covers the
        response's head. The iterator ends if the server ends the response cleanly, and raises NoResponse if the
        connection breaks. Leaving the context closes the connection.
        """
        return self._stream(path, params)

    @asynccontextmanager
    async def _stream(self, path: str, params: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes | LongLine]]:
        response = await self._in_time(self._send("GET", path, params, {}, None), self._timeout_seconds)
        lines = self._lines(response.content)
        try:
            yield lines
        finally:
            await lines.aclose()
            response.close()

    async def _lines(self, content: aiohttp.StreamReader) -> AsyncGenerator[bytes | LongLine, None]:
        pending, scanning = bytearray(), None
        while True:
            try:
                chunk = await content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise self._unreachable(error) from error
            if not chunk:
                if pending or scanning is not None:
                    raise NoResponse(f"{self.access.server} closed the connection in the middle of a line")
                return
            *complete, rest = chunk.split(b"\n")
            for part in complete:
                if scanning is None and len(pending) + len(part) > LINE_MAX:
                    scanning = await _begin_scanning(pending)
                if scanning is not None:
                    await scanning.feed(part)
                    yield scanning.line()
                    scanning = None
                elif pending:
                    pending += part
                    yield bytes(pending)
                else:
                    yield part
                pending.clear()
            if scanning is not None:
                await scanning.feed(rest)
            else:
                pending += rest
                if len(pending) > LINE_MAX:
                    scanning = await _begin_scanning(pending)

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> aiohttp.ClientResponse:
        """Return a 2xx response with its body unread. A 401 is retried once with credentials that are read again."""
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
            # An API server never redirects; following a redirect would send the credentials to another host.
            allow_redirects=False,
        )
        self._answered_at = self._clock()
        if 200 <= response.status < 300:
            return response
        try:
            _, told = await _read(response.content, ERROR_BODY_MAX)
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

    def _unreachable(self, error: Exception) -> NoResponse:
        # aiohttp's message for a failed connection contains the repr of the SSL context.
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        return NoResponse(f"cannot reach {self.access.server}: {str(cause) or type(cause).__name__}")

    async def get(self, kind: Kind[R], namespace: str, name: str) -> R:
        """Return the object as stored now."""
        return _decode(kind, await self.request("GET", object_path(kind, namespace, name)))

    async def list(
        self, kind: Kind[R], namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> builtins.list[R]:
        """Return all objects (of one namespace, if given) of one snapshot, read in pages.

        An object that cannot be read or is over a limit is skipped and reported to `skipped`.
        """
        items: builtins.list[R] = []
        async for page in self.pages(kind, namespace, field_selector=field_selector, label_selector=label_selector):
            if page.first:
                items = []
            for each in page.skipped:
                self.skipped.report(kind, each.meta, each.error)
            for raw in page.items:
                try:
                    item = decode_object(kind, raw)
                    if why := oversized(item):
                        raise TooLong(why)  # noqa: TRY301 - the same error as of the decoding
                    items.append(item)
                except Exception as error:  # noqa: BLE001 - one object must not hide the others
                    self.skipped.report(kind, decode_meta(raw), error)
            del page
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
        """Yield the undecoded pages of one list. A page with `first` set invalidates all earlier pages.

        With an expired continue token (Gone) the server offers a token of a later snapshot. It is not used: earlier
        objects would be of the older snapshot, and a watch from the later one would miss their changes in between.
        Instead the list starts again, the second time without pages.
        """
        chosen, path = selectors(field_selector, label_selector), object_path(kind, namespace)
        limit, token, first, failed = page_size, "", True, False
        while True:
            asked = {**chosen, "limit": str(limit)} if limit else dict(chosen)
            if token:
                asked["continue"] = token
            following = ""
            try:
                async with aclosing(self._parts(path, asked, divisible=limit > 1)) as parts:
                    async for part in parts:
                        size, following = part.size, part.continue_token
                        yield msgspec.structs.replace(part, first=first)
                        first = False
                        del part
            except _TooLarge as error:
                limit = max(1, min(limit // SHRINK, error.objects * 3 // 4))
                continue
            except Gone:
                if not token:
                    raise
                limit, token, first, failed = (0 if failed else page_size), "", True, True
                continue
            except Malformed as error:
                raise _unreadable_response(kind, error) from error
            token = following
            if not token:
                return
            if limit < page_size and 0 < size * SHRINK <= BODY_MAX:
                limit = min(page_size, limit * 2)

    async def _parts(self, path: str, asked: Mapping[str, str], *, divisible: bool) -> AsyncGenerator[RawPage, None]:
        """Yield one response of a list: as one page, or as several if it is long or deeply nested.

        Only the last of several has the list's version and token. Raises _TooLarge for a long one if it is *divisible*,
        and Malformed for anything but a list.
        """
        seconds = self._timeout_seconds
        response = await self._in_time(self._send("GET", path, asked, {}, None), seconds)
        try:
            whole, data = await self._in_time(_read(response.content, BODY_MAX), seconds)
            if whole:
                response.release()
                with suppress(TooDeep):
                    yield split_list(data)
                    return
            elif divisible:
                raise _TooLarge(data.count(_UID, 0, BODY_MAX))
            scanner = Scanner(object_max=OBJECT_MAX)
            items: builtins.list[msgspec.Raw] = []
            skipped: builtins.list[Skipped] = []
            held = 0
            while data:
                for piece in _split_pieces(data):
                    for found in _scan(scanner, piece):
                        if (problem := _problem(found)) is not None:
                            skipped.append(Skipped(found.meta, problem))
                        else:
                            items.append(msgspec.Raw(found.data))
                            held += len(found.data)
                    if held > PART_BYTES:
                        yield RawPage(items, "", "", skipped=skipped)
                        items, skipped, held = [], [], 0
                    await asyncio.sleep(0)
                data = b"" if whole else await self._in_time(response.content.readany(), seconds)
            if not scanner.finished:
                raise NoResponse(f"{self.access.server} closed the connection in the middle of a list")
            fields = scanner.fields
            yield RawPage(items, fields.get("resourceVersion", ""), fields.get("continue", ""), skipped=skipped)
        finally:
            response.close()

    async def create(self, kind: Kind[R], namespace: str, document: Mapping[str, Any]) -> R:
        """Create an object and return it as stored. *document* may omit kind and apiVersion."""
        return _decode(kind, await self.request("POST", object_path(kind, namespace), body=_encode(kind, document)))

    async def replace(self, kind: Kind[R], namespace: str, name: str, document: Mapping[str, Any]) -> R:
        """Replace an object (PUT). With metadata.resourceVersion in *document* it raises Conflict if the stored one
        differs.
        """
        return _decode(
            kind, await self.request("PUT", object_path(kind, namespace, name), body=_encode(kind, document))
        )

    async def patch_json(
        self, kind: Kind[R], namespace: str, name: str, operations: Sequence[Mapping[str, Any]], subresource: str = ""
    ) -> R:
        """Apply an RFC 6902 patch. Raises Invalid if a `test` operation fails or a removed path is missing."""
        path = object_path(kind, namespace, name, subresource)
        body = msgspec.json.encode(operations)
        return _decode(kind, await self.request("PATCH", path, body=body, content_type=JSON_PATCH))

    async def patch_merge(self, kind: Kind[R], namespace: str, name: str, document: Mapping[str, Any]) -> R:
        """Apply an RFC 7386 patch: null removes, maps merge, lists are replaced."""
        body = msgspec.json.encode(document)
        return _decode(
            kind,
            await self.request("PATCH", object_path(kind, namespace, name), body=body, content_type=MERGE_PATCH),
        )

    async def delete(self, kind: Kind[R], namespace: str, name: str, *, uid: str | None = None) -> None:
        """Request deletion; an object with finalizers is deleted after they are removed. With *uid*, raises Conflict
        for another object of that name.
        """
        options = {"preconditions": {"uid": uid}} if uid is not None else {}
        body = msgspec.json.encode({"kind": "DeleteOptions", "apiVersion": "v1", **options})
        await self.request("DELETE", object_path(kind, namespace, name), body=body)


def selectors(field_selector: str, label_selector: str) -> dict[str, str]:
    """Return the query parameters of the selectors of a list or watch, without empty ones."""
    named = {"fieldSelector": field_selector, "labelSelector": label_selector}
    return {name: value for name, value in named.items() if value}


def object_path(kind: Kind[R], namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Return `Kind.path` of names that are safe in a path. Raises Invalid for an impossible name.

    A name may come from an untrusted object: `../../secrets` must not select another resource.
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
        raise _unreadable_response(kind, error) from error


def _unreadable_response(kind: Kind[R], error: Malformed) -> ServerError:
    return ServerError(502, MALFORMED, f"the response about {kind.plural} cannot be read: {error}")


async def _read(content: aiohttp.StreamReader, most: int) -> tuple[bool, bytes]:
    """Return whether *most* bytes contain the whole body, and the body or its beginning."""
    chunks: builtins.list[bytes] = []
    size = 0
    while size <= most:
        chunk = await content.readany()
        if not chunk:
            return True, b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
    return False, b"".join(chunks)


async def identify(line: bytes) -> LongLine:
    """Return the names in a watch line that is nested too deep to be decoded. Yields to the event loop."""
    scanning = _LongLine()
    await scanning.feed(line)
    return scanning.line()


async def _begin_scanning(pending: bytearray) -> "_LongLine":
    scanning = _LongLine()
    await scanning.feed(bytes(pending))
    pending.clear()
    return scanning


class _LongLine:
    """A watch line that is read to its end and not stored."""

    def __init__(self) -> None:
        self._scanner: Scanner | None = Scanner(event=True, object_max=0)
        self._object = Found(BareMeta(), b"", 0, 0)
        self._type = ""

    async def feed(self, data: bytes) -> None:
        """Scan the next part. Yields to the event loop."""
        for piece in _split_pieces(data):
            if self._scanner is None:
                return
            try:
                for each in self._scanner.feed(piece):
                    self._object = each
                self._type = self._scanner.fields.get("type", "")
            except ScanError:
                self._scanner, self._type = None, ""
            await asyncio.sleep(0)

    def line(self) -> LongLine:
        """Return the names found in the line after its end."""
        return LongLine(self._type, self._object.meta, self._object.size)


def _scan(scanner: Scanner, piece: bytes) -> builtins.list[Found]:
    try:
        return scanner.feed(piece)
    except ScanError as error:
        raise Malformed(f"not a list: {error}") from error


def _problem(found: Found) -> Malformed | None:
    """Return why a scanned object is skipped, or None."""
    if found.size > OBJECT_MAX:
        return TooLarge(f"it has {found.size} bytes of JSON, and the limit is {OBJECT_MAX}")
    if found.depth > DEPTH_READABLE and found.size > SHALLOW_MAX:
        return TooDeep(f"it is nested {found.depth} levels deep and has {found.size} bytes; remove the nested fields")
    return None


def _split_pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + PIECE] for at in range(0, len(data), PIECE))
