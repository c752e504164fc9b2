"""Connections to a sign-in endpoint: certificates, the proxy of the settings, and the log line of a failed one.

The proxy is only the one of the settings, as a tunnel, and never one of the environment.
"""

import asyncio
import base64

import pytest

from nmi.tokens.sign_in import proxy_by
from podidentity.azure.clouds import Endpoint
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.serving import free_ports
from tests.support.nmi.tokens.endpoint_lines import lines, sign_in
from tests.support.nmi.tokens.sign_in_bench import Bench, claims, running
from tests.support.raw_server import RawServer, Reply
from tests.support.tunnel_proxy import tunnel_proxy


async def test_the_secret_is_sent_through_a_tunnel_that_the_proxy_cannot_read() -> None:
    async with tunnel_proxy() as proxy:
        url = f"http://user:pass%40word@127.0.0.1:{proxy.port}"
        async with running(Bench(proxy_for=proxy_by(url, "direct.example"), loopback=True)) as bench:
            proxy.target = (bench.aad.host, bench.aad.port)
            principal = bench.principal("the-secret-of-the-principal")
            granted = await bench.fetch(bench.identity(principal, ad_endpoint=""))
            assert claims(granted)["appid"] == principal.client_id
    assert proxy.heads[0].startswith("CONNECT login.microsoftonline.com:443 ")
    assert "Basic " + base64.b64encode(b"user:pass@word").decode() in proxy.heads[0]
    assert b"the-secret-of" not in proxy.passed
    assert len(proxy.passed) > 1000


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


async def test_a_refused_connection_is_named(caplog: pytest.LogCaptureFixture) -> None:
    await sign_in(Endpoint("127.0.0.1", free_ports(1)[0]))
    assert "cannot connect (Connect" in lines(caplog)[0]["error"]


async def test_an_unknown_name_is_named(caplog: pytest.LogCaptureFixture) -> None:
    await sign_in(Endpoint("login.invalid", 443), attempt=60.0)
    (line,) = lines(caplog)
    assert line["error"] == "no complete response from login.invalid: its name cannot be resolved"


async def test_an_endpoint_with_an_untrusted_certificate_is_named_and_receives_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with RawServer(await asyncio.to_thread(Authority().server_context)) as untrusted:
        await sign_in(Endpoint("127.0.0.1", untrusted.port))
        assert (untrusted.connections, untrusted.requests) == (0, [])
    error = lines(caplog)[0]["error"]
    assert error.startswith("no complete response from 127.0.0.1: its certificate is not trusted (")


async def test_a_proxy_that_hangs_refuses_or_does_not_run_is_named(caplog: pytest.LogCaptureFixture) -> None:
    target = Endpoint("login.invalid", 443)
    async with RawServer() as proxy:
        await sign_in(target, proxy=f"http://user:password@127.0.0.1:{proxy.port}", attempt=0.3)
        proxy.replies.append(Reply(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"))
        await sign_in(target, proxy=f"http://user:password@127.0.0.1:{proxy.port}")
    await sign_in(target, proxy=f"http://user:password@127.0.0.1:{free_ports(1)[0]}")
    assert [line["error"].partition("login.invalid")[2] for line in lines(caplog)] == [
        " within 0.3 s",
        ": the proxy answered 407",
        ": cannot connect to the proxy",
    ]
    assert "password" not in caplog.text
