"""Fuzz target of NMI's HTTP client: what a server, or a program in front of one, sends in response to a request."""

import asyncio
import random
import zlib
from typing import Any, Final, NamedTuple, cast

from podidentity.http_client.connection import BODILESS, HttpConnection, Response
from podidentity.http_client.errors import HttpClientError

PIECES_MAX: Final = 6


class FakeTransport:
    """A transport that sends nothing."""

    closed = False

    def write(self, data: bytes) -> None:
        """Do nothing."""

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        assert not self.closed

    resume_reading = pause_reading


class Received(NamedTuple):
    """The outcome of a request."""

    status: int
    headers: dict[str, str]
    body: bytes
    error: str
    """The name of the exception's class; empty for a complete response."""


class HttpResponses:
    """A response is complete with the length that its head states, or an error, for every split of its bytes.

    The first byte of an input selects HEAD or GET.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        self._loop.close()

    def __call__(self, data: bytes) -> None:
        bodiless, data = data[:1] < b"A", data[1:]
        whole = self._loop.run_until_complete(self._received([data], data, bodiless=bodiless))
        draw = random.Random(zlib.crc32(data))
        ends = sorted({draw.randint(0, len(data)) for _ in range(PIECES_MAX)} | {len(data)})
        pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        assert self._loop.run_until_complete(self._received(pieces, data, bodiless=bodiless)) == whole

    async def _received(self, pieces: list[bytes], data: bytes, *, bodiless: bool) -> Received:
        ended: list[bool] = []
        connection = HttpConnection(lambda _: None)
        transport = FakeTransport()
        connection.connection_made(cast("asyncio.BaseTransport", transport))
        response = Response(connection, ended.append, None)
        connection.send(b"request", response, bodiless=bodiless)
        for piece in pieces:
            if transport.closed:
                break
            complete = not response.open
            connection.data_received(piece)
            assert not (complete and connection.usable), "bytes after a response leave the connection open"
        connection.connection_lost(None)
        assert len(ended) == 1, "the end of a response is reported once"
        received = await _outcome(response)
        _check(received, response, data, bodiless=bodiless)
        assert not received.error or not ended[0], "a connection is used again after an error"
        return received


async def _outcome(response: Response) -> Received:
    body, error = bytearray(), ""
    try:
        await response.head()
        while piece := await response.readany():
            body += piece
    except HttpClientError as failed:
        error = type(failed).__name__
        body.clear()
    return Received(response.status, dict(response.headers) if response.began else {}, bytes(body), error)


def _check(received: Received, response: Response, data: bytes, *, bodiless: bool) -> None:
    """Assert what a complete response promises."""
    assert len(received.body) <= len(data)
    for name, value in received.headers.items():
        assert name == name.lower()
        assert not set(name + value) & set("\r\n\0")
    if received.error or not response.began:
        return
    assert 100 <= received.status <= 999
    length: Any = response.content_length
    if bodiless or received.status in BODILESS or received.status == 101:
        assert received.body == b""
    elif "transfer-encoding" not in received.headers:
        assert length is None or len(received.body) == length
        assert received.body in data
