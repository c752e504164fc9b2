"""Requests to the API server: raw bytes in and out, every error mapped in one place, a time limit on each.

The typed verbs on top decode with msgspec (`kube.decoding`). What is above this module never sees aiohttp.
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
from podidentity.kube.errors import Gone, Invalid, ServerError, Unauthorized, Unreachable, from_answer
from podidentity.kube.scanning import DEPTH_READABLE, Found, ScanError, Scanner
from podidentity.kube.skipped import SkippedObjects
from podidentity.object_limits import oversized
from podidentity.resources import BareMeta, Kind, Resource

R = TypeVar("R", bound=Resource)
V = TypeVar("V")

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"

CONNECTIONS_MAX: Final = 32
"""More at once would only queue in the API server's own fairness."""
BODY_MAX: Final = 8 * 1024 * 1024
"""Bytes of an answer that are in memory at a time. A page of 500 pods has about 4 MB; a larger page is asked for again
in smaller ones, down to one object."""
OBJECT_MAX: Final = 8 * 1024 * 1024
"""Bytes of JSON of one object; a larger one is skipped. etcd stores up to 1.5 MiB of it, which JSON can make 6 times
longer where it consists of control characters."""
LINE_MAX: Final = OBJECT_MAX + 4096
"""Bytes of a line of a watch: an object and its envelope."""
ERROR_BODY_MAX: Final = 64 * 1024
PIECE: Final = 16 * 1024
"""Bytes that are scanned between two pauses for the loop: 5 ms at most."""
PART_BYTES: Final = 2 * 1024 * 1024
"""Bytes of objects of a long answer that are handed on together."""
SHRINK: Final = 4
"""A page that is too large is asked for again with so many times fewer objects, or with as many as fitted."""
_UID: Final = b'"uid":"'
"""Every object has it once; owners and embedded objects, too, so the number of them is a guess."""
MALFORMED: Final = "Malformed"
"""The reason of a ServerError for an answer that cannot be read: the server works, and the object may be to blame."""
CHUNK: Final = 256 * 1024
"""aiohttp pauses reading from the socket at twice this many buffered bytes."""
CONNECT_SECONDS: Final = 10.0
PAGE_SIZE: Final = 500


class _TooLarge(Exception):  # noqa: N818 - named for what happened
    """A page has more than BODY_MAX bytes, of which *objects* objects were read, about."""

    def __init__(self, objects: int) -> None:
        super().__init__()
        self.objects = objects


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
        self.skipped = SkippedObjects(clock)
        """What lists and informers of this client leave out."""

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

        async def answer() -> bytes:
            response = await self._send(method, path, params, headers, body)
            try:
                whole, told = await _read(response.content, BODY_MAX)
            finally:
                response.release()
            if not whole:
                raise ServerError(502, MALFORMED, f"an answer of more than {BODY_MAX} bytes")
            return told

        return await self._in_time(answer(), seconds)

    async def _in_time(self, work: Awaitable[V], seconds: float) -> V:
        """What *work* returns. Raises Unreachable where it takes longer than *seconds* or the connection fails."""
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError as error:
            raise Unreachable(f"no answer from {self.access.server} within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    def stream(
        self, path: str, params: Mapping[str, str]
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes | LongLine]]:
        """A GET whose answer is read line by line for as long as it lasts; the caller owns the deadline on silence.

        Of a line of more than LINE_MAX bytes only the names of its object are kept. Up to the answer's head the
        client's time limit holds. The iterator ends where the server ended the answer cleanly and raises Unreachable
        where it broke off. Leaving the context closes the connection.
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
                    raise Unreachable(f"{self.access.server} broke off in the middle of a line")
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

        An object that cannot be read, or is over a limit, is left out and reported to `skipped`.
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
                        raise TooLong(why)  # noqa: TRY301 - as the decoding does
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
        """The undecoded pages of one list. A page with `first` set means: forget what came before.

        With an expired continue token (Gone) the server offers another one that goes on in a later snapshot. It is
        not used: objects before it would be of the older snapshot, and a watch begun at the later one never tells what
        happened to them in between. The list begins anew instead, at the second time in one piece.
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
                raise _garbled(kind, error) from error
            token = following
            if not token:
                return
            if limit < page_size and 0 < size * SHRINK <= BODY_MAX:
                limit = min(page_size, limit * 2)

    async def _parts(self, path: str, asked: Mapping[str, str], *, divisible: bool) -> AsyncGenerator[RawPage, None]:
        """One answer of a list: as one page, or in several where it is long or nested deeply.

        Only the last of several has the list's version and token. Raises _TooLarge for a long one if it is *divisible*,
        and Malformed for one that is no list.
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
                for piece in _pieces(data):
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
                raise Unreachable(f"{self.access.server} broke off in the middle of a list")
            fields = scanner.fields
            yield RawPage(items, fields.get("resourceVersion", ""), fields.get("continue", ""), skipped=skipped)
        finally:
            response.close()

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
    return ServerError(502, MALFORMED, f"the answer about {kind.plural} cannot be read: {error}")


async def _read(content: aiohttp.StreamReader, most: int) -> tuple[bool, bytes]:
    """The body, or its beginning of a little more than *most* bytes; and whether that is all of it."""
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
    """What a line of a watch is about that is nested too deep to be decoded; pauses for the loop."""
    scanning = _LongLine()
    await scanning.feed(line)
    return scanning.line()


async def _begin_scanning(pending: bytearray) -> "_LongLine":
    scanning = _LongLine()
    await scanning.feed(bytes(pending))
    pending.clear()
    return scanning


class _LongLine:
    """A line of a watch that is read to its end and not kept."""

    def __init__(self) -> None:
        self._scanner: Scanner | None = Scanner(event=True, object_max=0)
        self._object = Found(BareMeta(), b"", 0, 0)
        self._type = ""

    async def feed(self, data: bytes) -> None:
        """Scan the next part, with pauses for the loop."""
        for piece in _pieces(data):
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
        """What is known of the line once it has ended."""
        return LongLine(self._type, self._object.meta, self._object.size)


def _scan(scanner: Scanner, piece: bytes) -> builtins.list[Found]:
    try:
        return scanner.feed(piece)
    except ScanError as error:
        raise Malformed(f"not a list: {error}") from error


def _problem(found: Found) -> Malformed | None:
    """Why an object that was scanned is not handed on."""
    if found.size > OBJECT_MAX:
        return TooLarge(f"it has {found.size} bytes of JSON, and the limit is {OBJECT_MAX}")
    if found.depth > DEPTH_READABLE and found.size > SHALLOW_MAX:
        return TooDeep(f"it is nested {found.depth} levels deep and has {found.size} bytes; remove the nested fields")
    return None


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + PIECE] for at in range(0, len(data), PIECE))
