"""The comparison server as a uvloop protocol with httptools. Run as a program."""

import asyncio
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import parse_qsl

import httptools
import uvloop
from typing_extensions import override

from benchmarks.load.peers.job import CONTENT_TYPE, TOKEN_PATH, Job, arguments

BACKLOG: Final = 4096


class TokenServer(asyncio.Protocol):
    """One connection."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._peer = ""
        self._url = b""
        self._metadata = ""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it
        self._peer = transport.get_extra_info("peername")[0]

    @override
    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        self._url, self._metadata = b"", ""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"metadata":
            self._metadata = value.decode("latin-1")

    def on_message_complete(self) -> None:
        url = httptools.parse_url(self._url)
        if url.path.decode("latin-1") == TOKEN_PATH:
            query = dict(parse_qsl((url.query or b"").decode("latin-1")))
            status, body = self._job.answer(self._peer, self._metadata, query)
        else:
            status, body = HTTPStatus.NOT_FOUND, b""
        keeps = self._parser.should_keep_alive()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"Content-Type: {CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keeps else 'close'}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        if not keeps:
            self._transport.close()


async def serve() -> None:
    given = arguments()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: TokenServer(given.job), "127.0.0.1", given.port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
