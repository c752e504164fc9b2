"""A proxy on loopback for CONNECT, which records the heads of the requests and the bytes in its tunnels."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class TunnelProxy:
    """It leads to *target*, or to the address that the client names."""

    def __init__(self) -> None:
        self.port = 0
        self.target: tuple[str, int] | None = None
        self.heads: list[str] = []
        self.passed = bytearray()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        host, port = head.split()[1].rsplit(":", 1)
        far_reader, far_writer = await asyncio.open_connection(*(self.target or (host, int(port))))
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:  # also after a reset or at the end of the loop: the garbage collector warns of an open writer
            far_writer.close()
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.passed += data
                writer.write(data)
        writer.close()


@asynccontextmanager
async def tunnel_proxy() -> AsyncIterator[TunnelProxy]:
    proxy = TunnelProxy()
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy
