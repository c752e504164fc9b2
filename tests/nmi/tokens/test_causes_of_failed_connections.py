"""The cause in the log line of a sign-in without a connection: address, name, certificate, proxy."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from podidentity.azure.clouds import Endpoint
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.serving import free_ports
from tests.nmi.tokens.test_endpoint_failures import lines, sign_in

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[int]:
    """Run a server whose connections *serve* handles. Yield its port."""
    ends = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            serving = asyncio.ensure_future(serve(reader, writer))
            await asyncio.wait({serving, asyncio.ensure_future(ends.wait())}, return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
        finally:
            writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        ends.set()
        listener.close()


async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Accept, and neither answer nor close, like a TLS handshake, a proxy or IMDS that does not respond."""
    await asyncio.Event().wait()


async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse like a proxy that requires a password."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def test_a_refused_connection_is_named(caplog: pytest.LogCaptureFixture) -> None:
    await sign_in(Endpoint("127.0.0.1", free_ports(1)[0]))
    assert "cannot connect (Connect" in lines(caplog)[0]["error"]


async def test_an_unknown_name_is_named(caplog: pytest.LogCaptureFixture) -> None:
    await sign_in(Endpoint("login.invalid", 443), attempt=60.0)
    (line,) = lines(caplog)
    assert line["error"] == "no complete response from login.invalid: its name cannot be resolved"


async def test_an_untrusted_certificate_is_named(caplog: pytest.LogCaptureFixture) -> None:
    context = await asyncio.to_thread(Authority().server_context)
    listener = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    await sign_in(Endpoint("127.0.0.1", port))
    listener.close()
    error = lines(caplog)[0]["error"]
    assert error.startswith("no complete response from 127.0.0.1: its certificate is not trusted (")


async def test_a_proxy_that_hangs_refuses_or_does_not_run_is_named(caplog: pytest.LogCaptureFixture) -> None:
    target = Endpoint("login.invalid", 443)
    async with server(silent) as port:
        await sign_in(target, proxy=f"http://user:password@127.0.0.1:{port}", attempt=0.3)
    async with server(refusing) as port:
        await sign_in(target, proxy=f"http://user:password@127.0.0.1:{port}")
    await sign_in(target, proxy=f"http://user:password@127.0.0.1:{free_ports(1)[0]}")
    assert [line["error"].partition("login.invalid")[2] for line in lines(caplog)] == [
        " within 0.3 s",
        ": the proxy answered 407",
        ": cannot connect to the proxy",
    ]
    assert "password" not in caplog.text
