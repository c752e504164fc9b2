"""Connections to a sign-in endpoint: certificates, the proxy of the settings, and the log line of a failed one.

The proxy is only the one of the settings, as a tunnel, and never one of the environment.
"""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from nmi.tokens.sign_in import proxy_by
from podidentity.azure.clouds import Endpoint
from podidentity.azure.errors import Unreachable
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.serving import free_ports
from tests.support.nmi.tokens.sign_in_bench import Bench, claims, running
from tests.unit.nmi.tokens.test_endpoint_failures import lines, sign_in


async def test_an_endpoint_with_an_untrusted_certificate_receives_nothing(bench: Bench) -> None:
    principal = bench.principal("x")
    async with bench.new_session(ssl.create_default_context()) as session:
        bench.source = bench.new_source(session)
        with pytest.raises(Unreachable) as caught:
            await bench.fetch(bench.identity(principal))
    assert caught.value.code == "no_answer"
    assert bench.aad.calls == []


@dataclass
class TunnelProxy:
    """A proxy that leads CONNECT to *target* and records the requests and the tunnelled bytes."""

    target: tuple[str, int]
    heads: list[bytes] = field(default_factory=list)
    passed: bytearray = field(default_factory=bytearray)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        far_reader, far_writer = await asyncio.open_connection(*self.target)
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:  # also after a reset or at the end of the loop: the garbage collector warns of an open writer
            far_writer.close()
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.passed += data
            writer.write(data)
        writer.close()


async def test_the_secret_is_sent_through_a_tunnel_that_the_proxy_cannot_read() -> None:
    proxy = TunnelProxy(("127.0.0.1", 0))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    url = f"http://user:pass%40word@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with running(Bench(proxy_for=proxy_by(url, "direct.example"), loopback=True)) as bench:
        proxy.target = (bench.aad.host, bench.aad.port)
        principal = bench.principal("the-secret-of-the-principal")
        granted = await bench.fetch(bench.identity(principal, ad_endpoint=""))
        assert claims(granted)["appid"] == principal.client_id
    assert proxy.heads[0].startswith(b"CONNECT login.microsoftonline.com:443 ")
    assert b"Basic " + base64.b64encode(b"user:pass@word") in proxy.heads[0]
    assert b"the-secret-of" not in proxy.passed
    assert len(proxy.passed) > 1000
    server.close()
    await server.wait_closed()


async def test_the_environment_does_not_configure_a_proxy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "https://127.0.0.1:9")
    principal = bench.principal("x")
    assert (await bench.fetch(bench.identity(principal))).token.access_token


@pytest.mark.parametrize(
    ("exceptions", "host", "proxied"),
    [
        ("", "login.microsoftonline.com", True),
        ("microsoftonline.com", "login.microsoftonline.com", False),
        (".microsoftonline.com", "login.microsoftonline.com", False),
        ("*.microsoftonline.com", "login.microsoftonline.com", False),
        ("online.com", "login.microsoftonline.com", True),
        (" a.example , LOGIN.microsoftonline.com:443", "login.microsoftonline.com", False),
        ("login.microsoftonline.com:8443", "login.microsoftonline.com", True),
        ("*", "login.microsoftonline.com", False),
        (",", "login.microsoftonline.com", True),
    ],
)
def test_no_proxy_hosts_include_their_subdomains(exceptions: str, host: str, proxied: bool) -> None:
    chosen = proxy_by("proxy.example:3128", exceptions)(Endpoint(host))
    assert chosen == ("http://proxy.example:3128" if proxied else "")
    assert proxy_by("", exceptions)(Endpoint(host)) == ""


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
