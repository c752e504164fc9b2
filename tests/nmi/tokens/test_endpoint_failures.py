"""Log lines about token endpoints that hang or fail: the endpoint, the cause, the time, and a bound."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from nmi.tokens.endpoint_failures import ENDPOINTS_MAX, EndpointFailures
from nmi.tokens.metrics import SERVICE_PRINCIPAL, TokenMetrics
from nmi.tokens.sign_in import SignIn, no_proxy, proxy_by
from nmi.tokens.sign_in_session import new_session
from nmi.tokens.sign_ins import Attempts, SignIns
from podidentity.azure.clouds import Endpoint
from podidentity.azure.errors import AzureError, NotYet, Refused, Throttled, Unreachable
from podidentity.azure.imds import ImdsSource
from podidentity.http_client.session import HttpSession
from podidentity.telemetry.logs import FIELDS
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.serving import free_ports

MESSAGE = (
    "token endpoint fails; check that this node reaches it: DNS, firewall, proxy (HTTPS_PROXY), certificate authority "
    "(--ca-bundle)"
)
SECRET = "the-secret-of-the-application"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the lines about endpoints."""
    return [record.__dict__ for record in caplog.records if record.getMessage() == MESSAGE]


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


async def closing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse like a proxy that requires a password."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def sign_in(endpoint: Endpoint, *, within: float = 5.0, attempt: float = 0.3, proxy: str = "") -> TokenMetrics:
    """Try to sign in at *endpoint* once. Return the metrics."""
    metrics = TokenMetrics(CollectorRegistry())
    async with new_session("test") as session:
        sign_ins = SignIns(
            lambda: session,
            proxy_for=proxy_by(proxy, "") if proxy else no_proxy,
            attempt_seconds=attempt,
            retry_delays=(),
            observe=metrics.observe_aad,
        )
        await sign_ins.load()
        wanted = SignIn(endpoint, "tenant", "client", "https://vault.azure.net", secret=SECRET)
        with pytest.raises((Unreachable, TimeoutError)):
            async with asyncio.timeout(within):
                await sign_ins.token(wanted, "team-a", Attempts(sign_ins.clock() + within))
    return metrics


def errors(metrics: TokenMetrics) -> float:
    (family,) = (each for each in metrics.collect() if each.name.endswith("imds_operations_errors_count"))
    (count,) = (each.value for each in family.samples if each.labels["operation_type"] == SERVICE_PRINCIPAL)
    return count


@pytest.mark.parametrize(
    ("serve", "attempt", "cause"),
    [
        (silent, 0.3, "no response from 127.0.0.1 within 0.3 s"),
        (closing, 4.0, "no complete response from 127.0.0.1: "),
    ],
    ids=["handshake-hangs", "closed"],
)
async def test_a_sign_in_without_a_response_has_a_line(
    serve: Serve, attempt: float, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with server(serve) as port:
        metrics = await sign_in(Endpoint("127.0.0.1", port), attempt=attempt)
    (line,) = lines(caplog)
    assert line["levelno"] == logging.WARNING
    assert line["url"] == f"https://127.0.0.1:{port}"
    assert cause in line["error"]
    assert 0.0 <= line["seconds"] < 5.0
    assert line["count"] == 1
    assert {"url", "error", "seconds", "count"} <= set(FIELDS)
    assert errors(metrics) == 1.0
    assert SECRET not in caplog.text


async def test_a_fetch_that_ends_before_the_attempt_has_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    async with server(silent) as port:
        metrics = await sign_in(Endpoint("127.0.0.1", port), within=0.3, attempt=10.0)
    (line,) = lines(caplog)
    assert "no response from 127.0.0.1 in the remaining time of the fetch" in line["error"]
    assert 0.25 < line["seconds"] < 5.0
    assert errors(metrics) == 1.0


async def test_a_refused_connection_is_named(caplog: pytest.LogCaptureFixture) -> None:
    await sign_in(Endpoint("127.0.0.1", free_ports(1)[0]), attempt=5.0)
    assert "cannot connect (Connect" in lines(caplog)[0]["error"]


async def test_an_unknown_name_is_named(caplog: pytest.LogCaptureFixture) -> None:
    await sign_in(Endpoint("login.invalid", 443), attempt=20.0, within=20.0)
    (line,) = lines(caplog)
    assert line["error"] == "no complete response from login.invalid: its name cannot be resolved"


async def test_an_untrusted_certificate_is_named(caplog: pytest.LogCaptureFixture) -> None:
    context = await asyncio.to_thread(Authority().server_context)
    listener = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    await sign_in(Endpoint("127.0.0.1", port), attempt=5.0)
    listener.close()
    error = lines(caplog)[0]["error"]
    assert error.startswith("no complete response from 127.0.0.1: its certificate is not trusted (")


async def test_a_proxy_that_hangs_refuses_or_does_not_run_is_named(caplog: pytest.LogCaptureFixture) -> None:
    target = Endpoint("login.invalid", 443)
    async with server(silent) as port:
        await sign_in(target, proxy=f"http://user:password@127.0.0.1:{port}")
    async with server(refusing) as port:
        await sign_in(target, proxy=f"http://user:password@127.0.0.1:{port}", attempt=5.0)
    await sign_in(target, proxy=f"http://user:password@127.0.0.1:{free_ports(1)[0]}", attempt=5.0)
    assert [line["error"].partition("login.invalid")[2] for line in lines(caplog)] == [
        " within 0.3 s",
        ": the proxy answered 407",
        ": cannot connect to the proxy",
    ]
    assert "password" not in caplog.text


@pytest.mark.parametrize(("within", "attempt"), [(5.0, 0.2), (0.3, 10.0)], ids=["attempt", "request"])
async def test_imds_that_hangs_has_a_line(within: float, attempt: float, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[AzureError | None] = []
    failures = EndpointFailures()
    async with server(silent) as port, HttpSession(connections=16, headers={}) as session:
        imds = ImdsSource(
            session,
            f"http://127.0.0.1:{port}",
            attempt_seconds=attempt,
            retry_delays=(),
            observe=failures.with_imds("the address of IMDS", lambda _named, _seconds, error: seen.append(error)),
        )
        with pytest.raises(Unreachable):
            await imds.token("https://vault.azure.net", client_id="a", within=within)
    (line,) = lines(caplog)
    assert line["url"] == "the address of IMDS"
    assert min(within, attempt) * 0.9 < line["seconds"] < 4.0
    assert [type(each) for each in seen] == [Unreachable]


def test_an_endpoint_has_one_line_per_minute_with_the_number_of_failures(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    failures = EndpointFailures(clock=lambda: now[0])
    for second in range(121):
        now[0] = float(second)
        for _ in range(100):
            failures.record("https://a", 10.0, Unreachable("no response"))
        failures.record("https://b", 0.1, AzureError("busy", status=503))
    assert [(line["url"], line["count"]) for line in lines(caplog)] == [
        ("https://a", 1),
        ("https://b", 1),
        ("https://a", 6000),
        ("https://b", 60),
        ("https://a", 6000),
        ("https://b", 60),
    ]


def test_responses_have_no_line_and_endpoints_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    failures = EndpointFailures()
    for error in (None, Refused("no", status=400), Throttled("slow", status=429), NotYet("later", status=410)):
        failures.record("https://a", 0.1, error)
    assert lines(caplog) == []
    for number in range(3 * ENDPOINTS_MAX):
        failures.record(f"https://{number}", 0.1, Unreachable("no response"))
    assert len(lines(caplog)) == ENDPOINTS_MAX
