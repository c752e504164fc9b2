"""A relay of connections, also with TLS, for servers of this machine's loopback that network namespaces reach."""

import asyncio
import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

CHUNK: Final = 65536
CONNECT_SECONDS: Final = 5.0
"""How long the server behind may take to accept; it is on the same machine."""


@dataclass(eq=False)
class Link:
    """One client's connection, and the one to the server behind once it is made."""

    writer: asyncio.StreamWriter
    task: asyncio.Task[None]
    upstream: asyncio.StreamWriter | None = None

    def abort(self) -> None:
        for end in (self.writer, self.upstream):
            if end is not None:
                end.transport.abort()


class Relay:
    """Passes connections on to *upstream_host*:*upstream_port*. Each has a task, which `stop` ends."""

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self.upstream_host = upstream_host
        self.upstream_port = upstream_port
        self._servers: list[asyncio.Server] = []
        self._links: dict[asyncio.Task[None], Link] = {}
        self._running = False

    async def serve(self, sockets: Iterable[socket.socket]) -> None:
        """Serve on listening sockets made anywhere (in another network namespace), which the relay owns from now on.

        If it cannot serve on a socket, it closes this one and the later ones, and `stop` the others.
        """
        self._running = True
        unserved = list(sockets)
        try:
            while unserved:
                self._servers.append(await asyncio.start_server(self._accepted, sock=unserved[0]))
                del unserved[0]
        finally:
            for sock in unserved:
                # A start that is cancelled may have begun to accept connections.
                if sock.fileno() >= 0:
                    asyncio.get_running_loop().remove_reader(sock)
                sock.close()

    async def stop(self) -> None:
        """Close the listeners and every connection, and wait until they are closed."""
        self._running = False
        for server in self._servers:
            server.close()
        self._servers.clear()
        await self._end(tuple(self._links.values()))

    async def _end(self, links: Iterable[Link]) -> None:
        tasks = [link.task for link in links]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # aborted transports close in the next iteration

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._running:  # accepted before stop(), reported after it
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader), name="connection through a relay")
        self._links[task] = Link(writer, task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Close a connection whose task was cancelled before its first step."""
        self._links.pop(task).abort()

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        """Serve one connection until its end."""
        task = asyncio.current_task()
        link = self._links[task] if task is not None else None
        if link is None:
            raise RuntimeError("a connection is served in its own task")
        try:
            await self._relay(link, reader)
        except* OSError:
            log.debug("a connection through a relay broke off")
            link.abort()
        finally:
            await _close(link)

    async def _relay(self, link: Link, reader: asyncio.StreamReader) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            back, link.upstream = await asyncio.open_connection(self.upstream_host, self.upstream_port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy(reader, link.upstream), name="bytes to the server")
            tasks.create_task(self._copy(back, link.writer), name="bytes to the client")

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await self._take(source):
            sink.write(data)
            await sink.drain()
        sink.write_eof()

    async def _take(self, source: asyncio.StreamReader) -> bytes:
        """Return the next bytes; empty at the end of the stream."""
        return await source.read(CHUNK)


async def _close(link: Link) -> None:
    """Close both ends; a cancelled task discards buffered data."""
    if link.task.cancelling():
        link.abort()
    for end in (link.writer, link.upstream):
        if end is None:
            continue
        end.close()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await end.wait_closed()
        except OSError:
            end.transport.abort()
