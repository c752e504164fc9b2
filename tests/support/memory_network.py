"""Connections in memory between HTTP clients and servers of one event loop, for tests in virtual time.

A server is any protocol of asyncio at an origin such as `http://imds`. Data arrive in the next iteration of the loop,
in their order, and a reader that has paused receives nothing, as with sockets.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
from aiohappyeyeballs import AddrInfoType
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace
from typing_extensions import override

from podidentity.http_client.connection import HttpConnection
from podidentity.http_client.session import HttpSession
from podidentity.kube.access import ClusterAccess
from podidentity.kube.aiohttp_session import AiohttpSession
from podidentity.kube.sessions import Session

HIGH_WATER: Final = 64 * 1024
"""A writer is paused while more bytes than this wait for their reader, as with asyncio's transports."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class MemoryNetwork:
    """Servers by their origin, and sessions of clients that find them there."""

    def __init__(self) -> None:
        self._servers: dict[str, ProtocolFactory] = {}
        self._connections: dict[str, list[_End]] = {}

    def serve(self, origin: str, server: ProtocolFactory) -> None:
        """Answer the connections to *origin* (scheme, host and port if it is not the scheme's own) with *server*."""
        self._servers[origin] = server

    def cut(self, origin: str) -> None:
        """Reset all connections to *origin*, and refuse further ones until it is served again."""
        self._servers.pop(origin, None)
        for end in self._connections.pop(origin, ()):
            end.reset()

    def http_session(self, **arguments: Any) -> HttpSession:
        """Return a session with the *arguments* of HttpSession. The caller closes it."""
        return _MemorySession(self, **arguments)

    def open_session(
        self, access: ClusterAccess, *, connections: int, headers: Mapping[str, str], reuse: bool
    ) -> HttpSession:
        """Return a session for a client of the API server (`podidentity.kube.sessions.OpenSession`)."""
        del access
        return _MemorySession(self, connections=connections, headers=headers, reuse=reuse)

    def open_aiohttp_session(
        self, access: ClusterAccess, *, connections: int, headers: Mapping[str, str], reuse: bool
    ) -> Session:
        """Return a session of aiohttp for a client of the API server."""
        return AiohttpSession(access, self.connector(limit=connections, force_close=not reuse), headers)

    def connector(self, **arguments: Any) -> aiohttp.BaseConnector:
        """Return a connector of aiohttp with the *arguments* of BaseConnector. Its session owns it."""
        return _MemoryConnector(self, **arguments)

    def connect(self, origin: str, client: asyncio.BaseProtocol, server_name: str = "") -> None:
        """Connect *client*, whose TLS would send *server_name*. Raise ConnectionRefusedError if *origin* is not served.

        The server finds the name as an attribute of the transport's `ssl_object`.
        """
        factory = self._servers.get(origin)
        if factory is None:
            raise ConnectionRefusedError(f"nothing is served at {origin}")
        here, there = _End(client), _End(factory(), {"ssl_object": SimpleNamespace(server_name=server_name)})
        here.peer, there.peer = there, here
        ends = self._connections.setdefault(origin, [])
        ends[:] = [end for end in ends if not end.is_closing()]
        ends.append(here)
        there.protocol.connection_made(there)
        here.protocol.connection_made(here)


class _MemorySession(HttpSession):
    """A session whose connections lead to the servers of a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._network = network

    @override
    async def _resolved(self, origin: Any) -> list[AddrInfoType]:
        if self._closed:
            raise ConnectionError("the session is closed")
        return []

    @override
    async def _open(self, origin: Any, addresses: list[AddrInfoType]) -> HttpConnection:
        connection = HttpConnection(self._lost)
        self._network.connect(f"{origin.scheme}://{origin.authority}", connection)
        return connection


class _MemoryConnector(aiohttp.BaseConnector):
    """A connector of aiohttp whose connections lead to the servers of a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._network = network

    @override
    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        protocol = self._factory()
        try:
            self._network.connect(str(req.url.origin()), protocol, req.server_hostname or req.url.host or "")
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        return protocol


class _End(asyncio.Transport):
    """One end of a connection."""

    peer: "_End"

    def __init__(self, protocol: asyncio.BaseProtocol, extra: dict[str, object] | None = None) -> None:
        super().__init__(extra)
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._reading = True
        self._writer_paused = False
        self._closing = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        self.peer._arrive(bytes(data))
        if self.peer._size > HIGH_WATER and not self._writer_paused:
            self._writer_paused = True
            self.protocol.pause_writing()

    @override
    def pause_reading(self) -> None:
        self._reading = False

    @override
    def resume_reading(self) -> None:
        self._reading = True
        self._loop.call_soon(self._deliver)

    @override
    def is_reading(self) -> bool:
        return self._reading

    @override
    def is_closing(self) -> bool:
        return self._closing

    @override
    def can_write_eof(self) -> bool:
        return False

    @override
    def get_write_buffer_size(self) -> int:
        return self.peer._size

    @override
    def close(self) -> None:
        """End the connection. What was written still arrives."""
        if not self._closing:
            self.peer._ended = True
            self._loop.call_soon(self.peer._deliver)
            self._lose(None)

    abort = close

    def reset(self) -> None:
        """End both ends, as a connection that a router has forgotten, or after data for an end that has closed.

        What has not arrived is lost.
        """
        for end in (self, self.peer):
            if not end._closing:
                end._lose(ConnectionResetError("connection reset by peer"))

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def _lose(self, error: Exception | None) -> None:
        self._closing = True
        self._loop.call_soon(self.protocol.connection_lost, error)

    def _arrive(self, data: bytes) -> None:
        self._size += len(data)
        if self._closing:
            self._loop.call_soon(self.reset)
        else:
            self._arrived.append(data)
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        while self._arrived and self._reading and not self._closing:
            data = self._arrived.popleft()
            self._size -= len(data)
            self.protocol.data_received(data)
        # As asyncio's transports, whose low-water mark is a quarter of the high-water mark by default.
        if self._size <= HIGH_WATER // 4 and self.peer._writer_paused:
            self.peer._writer_paused = False
            self.peer.protocol.resume_writing()
        if self._ended and not self._arrived and not self._closing and not self.protocol.eof_received():
            self.close()
