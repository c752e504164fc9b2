"""How an SDK asks NMI from the address of a pod that has no network namespace.

NMI knows a pod by the address that it asks from, and no SDK lets an application choose that. So each such pod gets a
port of its own here, whatever comes in there goes on to NMI from the pod's address, byte for byte, and the SDK is led
to the port by AZURE_POD_IDENTITY_AUTHORITY_HOST.
"""

import asyncio
import contextlib
from typing import Self

PIECE_BYTES = 1 << 16


class Relay:
    """Passes connections to its port on to *host*:*port* from *source*. `async with` it."""

    def __init__(self, host: str, port: int, source: str) -> None:
        self._target = (host, port)
        self._source = source
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.url = ""
        """Where it listens."""

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
                one.transport.abort()  # where this is cancelled, or one side broke off


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
