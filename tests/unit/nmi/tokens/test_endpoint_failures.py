"""Log lines about token endpoints that hang or fail: the endpoint, the cause, the time, and a bound."""

import asyncio
import logging
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from nmi.tokens.endpoint_failures import ENDPOINTS_MAX, EndpointFailures
from nmi.tokens.metrics import SERVICE_PRINCIPAL, TokenMetrics
from nmi.tokens.sign_in import ATTEMPT_SECONDS, SignIn, no_proxy, proxy_by
from nmi.tokens.sign_in_session import new_session
from nmi.tokens.sign_ins import Attempts, SignIns
from podidentity.azure.clouds import Endpoint
from podidentity.azure.errors import AzureError, NotYet, Refused, Throttled, Unreachable
from podidentity.azure.imds import ImdsSource
from podidentity.telemetry.logs import FIELDS
from tests.support.memory_network import MemoryNetwork

MESSAGE = (
    "token endpoint fails; check that this node reaches it: DNS, firewall, proxy (HTTPS_PROXY), certificate authority "
    "(--ca-bundle)"
)
SECRET = "the-secret-of-the-application"
URL = "https://login.example"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the lines about endpoints."""
    return [record.__dict__ for record in caplog.records if record.getMessage() == MESSAGE]


class Closing(asyncio.Protocol):
    """A server that closes a connection with the first data."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # type: ignore[explicit-override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # type: ignore[explicit-override]
        self._transport.close()


async def sign_in(
    endpoint: Endpoint,
    *,
    within: float = 60.0,
    attempt: float = ATTEMPT_SECONDS,
    proxy: str = "",
    network: MemoryNetwork | None = None,
) -> TokenMetrics:
    """Try to sign in at *endpoint* once, in *network* or through sockets. Return the metrics."""
    metrics = TokenMetrics(CollectorRegistry())
    async with new_session("test", cast("Any", network.connector()) if network is not None else None) as session:
        sign_ins = SignIns(
            lambda: session,
            proxy_for=proxy_by(proxy, "") if proxy else no_proxy,
            attempt_seconds=attempt,
            retry_delays=(),
            observe=metrics.observe_aad,
        )
        await sign_ins.load()
        wanted = SignIn(endpoint, "tenant", "client", "https://vault.azure.net", secret=SECRET)
        with pytest.raises((Unreachable, TimeoutError)) as error:
            async with asyncio.timeout(within):
                await sign_ins.token(wanted, "team-a", Attempts(sign_ins.clock() + within))
    assert "password" not in str(error.value)
    return metrics


def errors(metrics: TokenMetrics) -> float:
    (family,) = (each for each in metrics.collect() if each.name.endswith("imds_operations_errors_count"))
    (count,) = (each.value for each in family.samples if each.labels["operation_type"] == SERVICE_PRINCIPAL)
    return count


@pytest.mark.parametrize(
    ("server", "within", "cause", "seconds"),
    [
        (asyncio.Protocol, 60.0, "no response from login.example within 10 s", ATTEMPT_SECONDS),
        (asyncio.Protocol, 5.0, "no response from login.example in the remaining time of the fetch", 5.0),
        (Closing, 60.0, "no complete response from login.example: ", 0.0),
    ],
    ids=["handshake-hangs", "the fetch ends before the attempt", "closed"],
)
async def test_a_sign_in_without_a_response_has_a_line(
    server: type[asyncio.Protocol], within: float, cause: str, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    network = MemoryNetwork()
    network.serve(URL, server)
    metrics = await sign_in(Endpoint("login.example"), within=within, network=network)
    (line,) = lines(caplog)
    assert line["levelno"] == logging.WARNING
    assert cause in line["error"]
    assert (line["url"], line["seconds"], line["count"]) == (URL, seconds, 1)
    assert {"url", "error", "seconds", "count"} <= set(FIELDS)
    assert errors(metrics) == 1.0
    assert SECRET not in caplog.text


@pytest.mark.parametrize(("within", "attempt"), [(10.0, 5.0), (5.0, 10.0)], ids=["attempt", "request"])
async def test_imds_that_hangs_has_a_line(within: float, attempt: float, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[AzureError | None] = []
    failures = EndpointFailures()
    network = MemoryNetwork()
    network.serve("http://imds", asyncio.Protocol)
    async with network.http_session(connections=16, headers={}) as session:
        imds = ImdsSource(
            session,
            "http://imds",
            attempt_seconds=attempt,
            retry_delays=(),
            observe=failures.with_imds("the address of IMDS", lambda _named, _seconds, error: seen.append(error)),
        )
        with pytest.raises(Unreachable):
            await imds.token("https://vault.azure.net", client_id="a", within=within)
    (line,) = lines(caplog)
    assert line["url"] == "the address of IMDS"
    assert line["seconds"] == 5.0
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
