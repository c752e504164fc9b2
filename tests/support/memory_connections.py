"""Connections of aiohttp's client to aiohttp's servers in one event loop, without sockets, so that time can be virtual.

All parts of the client and the server are the real ones, except TLS and the transport.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from typing_extensions import override


class MemoryConnector(aiohttp.BaseConnector):
    """Connector whose connections lead to protocols of *server*, for example a `web.Server`."""

    def __init__(self, server: Callable[[], asyncio.Protocol], *, connections: int = 100, reuse: bool = True) -> None:
        super().__init__(limit=connections, force_close=not reuse)
        self._server = server

    @override
    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        client = self._factory()
        connect(client, self._server())
        return client


def connect(first: asyncio.Protocol, second: asyncio.Protocol) -> None:
    """Connect two protocols. What one writes, the other one receives in the next step of the event loop."""
    near, far = _Transport(first), _Transport(second)
    near.peer, far.peer = far, near
    second.connection_made(far)
    first.connection_made(near)


class _Transport(asyncio.Transport):
    """One end of a connection."""

    peer: "_Transport"

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._paused = False
        self._received: list[bytes] = []
        self._ended = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing and data:
            self._loop.call_soon(self.peer.receive, bytes(data))

    @override
    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    @override
    def is_closing(self) -> bool:
        return self._closing

    @override
    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)
            self._loop.call_soon(self.peer.end)

    @override
    def abort(self) -> None:
        self.close()

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    @override
    def pause_reading(self) -> None:
        self._paused = True

    @override
    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._deliver)

    def receive(self, data: bytes) -> None:
        self._received.append(data)
        self._deliver()

    def end(self) -> None:
        self._ended = True
        self._deliver()

    def _deliver(self) -> None:
        while self._received and not self._paused and not self._closing:
            assert isinstance(self._protocol, asyncio.Protocol)
            self._protocol.data_received(self._received.pop(0))
        if self._ended and not self._received:
            self.close()
