"""A raw TCP server in place of IMDS, and a token server in front of it: for answers that no HTTP server would give."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from _native.index import Index
from _native.lane import Limits
from nmi.server.metrics import ServerMetrics
from nmi.server.passthrough import MetadataProxy
from nmi.server.policy import ServerPolicy
from nmi.server.server import Server
from podidentity.http_client.session import HttpSession
from tests.nmi.server.fakes import FakeIssuer, grant, pod_entry

LOCAL = "127.0.0.1"
Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""Answers one request, given its head."""


class Upstream:
    """Runs *script* for each request of each connection; counts connections that the other side closed."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.gone = asyncio.Event()
        """The other side closed a connection."""
        self.url = ""
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
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
        except asyncio.IncompleteReadError:
            return b""
        return head


class Front:
    """A token server whose proxied requests go to *upstream*."""

    def __init__(self, upstream: Upstream, session: HttpSession, policy: ServerPolicy) -> None:
        self.measures = ServerMetrics()
        self.index, entry = Index(), pod_entry()
        self.index.put(LOCAL, entry.record)
        self.proxy = MetadataProxy(session, upstream.url, policy)
        self.governor = self.proxy._governor
        self.server = Server(
            limits=Limits(),
            policy=policy,
            index=self.index,
            issuer=FakeIssuer(lambda _: grant(entry.record)),
            proxy=self.proxy,
            measures=self.measures,
        )
        self.listener = socket.create_server((LOCAL, 0))
        self.listener.setblocking(False)

    @asynccontextmanager
    async def client(self, *, window: int = 0) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Return a connection; with *window*, its socket accepts only about this number of unread bytes."""
        sock = socket.socket()
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.listener.getsockname())
        reader, writer = await asyncio.open_connection(sock=sock, limit=window or 2**20)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


@asynccontextmanager
async def fronting(script: Script, policy: ServerPolicy | None = None) -> AsyncIterator[tuple[Front, Upstream]]:
    upstream = Upstream(script)
    listening = await asyncio.start_server(upstream.serve, LOCAL, 0)
    host, port = listening.sockets[0].getsockname()
    upstream.url = f"http://{host}:{port}"
    async with HttpSession(connections=16, headers={}) as session:
        front = Front(upstream, session, policy or ServerPolicy())
        await front.server.start(front.listener)
        try:
            yield front, upstream
        finally:
            await front.server.aclose()
            front.listener.close()
            front.proxy.close()
            listening.close()
            await upstream.end()
