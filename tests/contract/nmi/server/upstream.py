"""A raw TCP server in place of IMDS, and a token server in front of it: for answers that no HTTP server would give."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from nmi.server.passthrough import MetadataProxy
from nmi.server.policy import ServerPolicy
from podidentity.http_client.session import HttpSession
from tests.support.nmi.server.running import LOCAL, Running

Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[object]]
"""Answers one request, given its head."""


class Upstream:
    """Runs *script* for each request of each connection."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.gone = asyncio.Event()
        """The other side closed a connection."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                while head := await self._head(reader):
                    self.heads.append(head)
                    await self.script(head, writer)
                    await writer.drain()
            self.gone.set()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def end(self) -> None:
        """End all answers that are not complete."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""


class Front(Running):
    """A token server whose proxied requests go to an upstream."""

    def __init__(self, session: HttpSession, url: str, policy: ServerPolicy | None) -> None:
        self.metadata = MetadataProxy(session, url, policy or ServerPolicy())
        self.governor = self.metadata._governor
        super().__init__(policy, self.metadata)

    async def answer(self, data: bytes) -> bytes:
        """Return all bytes that one client receives for *data* until the connection ends."""
        async with self.client() as client:
            client.send(data)
            return await client.rest()


@asynccontextmanager
async def fronting(script: Script, policy: ServerPolicy | None = None) -> AsyncIterator[tuple[Front, Upstream]]:
    upstream = Upstream(script)
    listening = await asyncio.start_server(upstream.serve, LOCAL, 0)
    host, port = listening.sockets[0].getsockname()
    async with HttpSession(connections=16, headers={}) as session:
        front = Front(session, f"http://{host}:{port}", policy)
        await front.server.start(front.listener)
        try:
            yield front, upstream
        finally:
            await front.server.aclose()
            front.listener.close()
            front.metadata.close()
            listening.close()
            await upstream.end()
