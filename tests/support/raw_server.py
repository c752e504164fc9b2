"""A server that sends the bytes that a test chooses."""

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Self

from podidentity.http_client.connection import Response
from tests.support.virtual_time import settle


@dataclass(init=False)
class Reply:
    """The bytes of one response, and what the server does with the connection after it."""

    pieces: tuple[bytes, ...]
    close: bool
    reset: bool
    hang: bool

    def __init__(self, *pieces: bytes, close: bool = False, reset: bool = False, hang: bool = False) -> None:
        self.pieces = pieces
        self.close, self.reset, self.hang = close, reset, hang


def ok(body: bytes = b"hello", *fields: str) -> Reply:
    head = "".join(f"{field}\r\n" for field in (f"Content-Length: {len(body)}", *fields))
    return Reply(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body)


async def body_of(response: Response) -> bytes:
    body = bytearray()
    while piece := await response.readany():
        body += piece
    return bytes(body)


class RawServer:
    """Each request receives the next of `replies`, each piece in a packet of its own, or none at all.

    The connection is closed after a reply that is not a `Reply`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.replies: deque[Reply | AsyncIterable[bytes]] = deque()
        self.requests: list[bytes] = []
        self.connections = 0
        self.ended = 0
        """Connections that the client has closed."""
        self._tls = tls
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self.accept, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.end()

    async def end(self) -> None:
        """End all connections."""
        for task, writer in self._tasks.items():
            task.cancel()
            writer.close()  # a task that is cancelled before its first step does not close it
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks[asyncio.create_task(self._serve(reader, writer))] = writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended += 1
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request. Return whether another one may follow."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        self.requests.append(head + await reader.readexactly(int(length or 0)))
        reply = self.replies.popleft() if self.replies else Reply(hang=True)
        if not isinstance(reply, Reply):
            async for piece in reply:
                writer.write(piece)
                await writer.drain()
            return False
        for piece in reply.pieces:
            writer.write(piece)
            await writer.drain()
            await settle(5)  # until the client has read it
        if reply.hang:
            await reader.readexactly(1)
        if reply.reset:
            peer: socket.socket = writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return not (reply.close or reply.reset)
