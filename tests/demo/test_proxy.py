"""With a proxy in the environment, the demo sends only requests to Azure Resource Manager through it."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from podidentity_demo.settings import Settings
from tests.demo.conftest import one_run
from tests.sandbox.azure.conftest import Azure


@asynccontextmanager
async def proxy(asked: list[str]) -> AsyncIterator[str]:
    """Start a proxy that connects to any requested address and records the first line of each request. Yield its host
    and port.
    """

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *_ = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        asked.append(first)
        host, _, port = first.split()[1].rpartition(":")
        to_server, from_server = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await asyncio.gather(pass_on(reader, from_server), pass_on(to_server, writer))
        finally:  # also after a reset or at the end of the loop: the garbage collector warns of an open writer
            from_server.close()
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_list_of_vms_is_read_through_the_proxy_which_sees_no_token(azure: Azure, settings: Settings) -> None:
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    asked: list[str] = []
    async with proxy(asked) as address:
        lines = await one_run(dataclasses.replace(settings, proxy=address))
    assert lines[0] == "successfully doARMOperations vm count 1"
    assert all(line.startswith("successfully") for line in lines)
    server = urlsplit(azure.arm.url)
    assert [line.rpartition(" ")[0] for line in asked] == [f"CONNECT {server.hostname}:{server.port}"]
