"""Relay through which an SDK sends requests to NMI from the address of a pod without a network namespace.

NMI identifies a pod by the source address of its requests, and no SDK lets an application choose that address. So each
of these pods gets a separate port. The relay forwards all bytes from the port to NMI, from the pod's address.
AZURE_POD_IDENTITY_AUTHORITY_HOST directs the SDK to the port.
"""

import asyncio
import contextlib
from typing import Self

PIECE_BYTES = 1 << 16


class Relay:
    """Relay from a local port to *host*:*port*, with the source address *source*. Use it with `async with`."""

    def __init__(self, host: str, port: int, source: str) -> None:
        self._target = (host, port)
        self._source = source
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.url = ""
        """The URL at which the relay listens."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        writers = [writer]
        try:
            theirs = await asyncio.open_connection(*self._target, local_addr=(self._source, 0))
            writers.append(theirs[1])
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(_pass_on(reader, theirs[1]), _pass_on(theirs[0], writer))
                for one in writers:
                    one.close()
                    await one.wait_closed()
        finally:
            self._links.discard(link)
            for one in writers:
                one.transport.abort()  # after a cancellation, or when one side ended the connection


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
