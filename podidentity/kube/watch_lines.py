"""Lines of a watch. Of a line that is too long or nested too deep only the names of its object are kept."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from podidentity.kube import response_limits
from podidentity.kube.decoding import LongLine
from podidentity.kube.errors import NoResponse
from podidentity.kube.scanning import ScanError, ScannedObject, Scanner
from podidentity.resources import BareMeta


class _LineScanner:
    """Reader of a watch line that is not stored."""

    def __init__(self) -> None:
        self._scanner: Scanner | None = Scanner(event=True, object_max=0)
        self._object = ScannedObject(BareMeta(), b"", 0, 0)
        self._type = ""

    async def feed(self, data: bytes) -> None:
        """Scan the next part. Yields to the event loop."""
        for piece in response_limits.split_pieces(data):
            if self._scanner is None:
                return
            try:
                for scanned in self._scanner.feed(piece):
                    self._object = scanned
                self._type = self._scanner.fields.get("type", "")
            except ScanError:
                # Without a type the informer lists again.
                self._scanner, self._type = None, ""
            await asyncio.sleep(0)

    def line(self) -> LongLine:
        """Return the names found in the line after its end."""
        return LongLine(self._type, self._object.meta, self._object.size)


async def read_lines(read: Callable[[], Awaitable[bytes]], server: str) -> AsyncGenerator[bytes | LongLine, None]:
    """Yield the lines of the chunks that *read* returns, until it returns an empty one.

    Raise NoResponse, with the name of *server*, if the last line is not complete.
    """
    pending, scanning = bytearray(), None
    while True:
        chunk = await read()
        if not chunk:
            if pending or scanning is not None:
                raise NoResponse(f"{server} closed the connection in the middle of a line")
            return
        *complete, rest = chunk.split(b"\n")
        for part in complete:
            if scanning is None and len(pending) + len(part) > response_limits.LINE_MAX:
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
            if len(pending) > response_limits.LINE_MAX:
                scanning = await _begin_scanning(pending)


async def identify(line: bytes) -> LongLine:
    """Return the names in a watch line that is nested too deep to be decoded. Yields to the event loop."""
    scanning = _LineScanner()
    await scanning.feed(line)
    return scanning.line()


async def _begin_scanning(pending: bytearray) -> _LineScanner:
    scanning = _LineScanner()
    await scanning.feed(bytes(pending))
    pending.clear()
    return scanning
