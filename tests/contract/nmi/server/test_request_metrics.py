"""Request metrics, which keep their number of series for any requests, and the ids and fields of requests in log lines.

Excluded: exposition over HTTP.
"""

import io
import json
import logging
import random
import string
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest

from nmi.refusal import Reason, Refusal
from nmi.server.metrics import OTHER, SERIES_MAX, ServerMetrics, audience
from nmi.server.policy import ServerPolicy
from nmi.server.request import CLIENT_REQUEST_CHARS, Call, Request
from nmi.server.target import ProxiedPaths
from podidentity.azure.imds import RawResponse
from podidentity.telemetry.logs import JsonFormatter
from tests.support.nmi.server.fakes import (
    PEER,
    RESOURCE,
    TARGET,
    TOKEN_PATH,
    ServerUnderTest,
    ServiceResult,
    grant,
    request_bytes,
)
from tests.support.nmi.server.running import LOCAL, Running, serving


@pytest.mark.parametrize(
    ("resource", "wanted"),
    [
        ("https://management.azure.com/", "https://management.azure.com/"),
        ("https://management.azure.com", "https://management.azure.com/"),
        ("HTTPS://Vault.azure.net", "https://vault.azure.net/"),
        ("https://vault.azure.net/.default", "https://vault.azure.net/"),
        ("https://vault.azure.net.evil/", OTHER),
        ("api://anything", OTHER),
        ("", OTHER),
    ],
)
def test_a_resource_is_counted_as_a_known_audience_or_other(resource: str, wanted: str) -> None:
    assert audience(resource) == wanted


def test_the_number_of_series_is_bounded_for_any_namespaces() -> None:
    measures = ServerMetrics()
    made = {measures.series("route", 200, f"namespace-{n}", OTHER).labels for n in range(SERIES_MAX + 100)}
    assert len(made) == SERIES_MAX + 1
    assert ("route", "200", OTHER, OTHER) in made


async def test_prometheus_parses_the_metrics() -> None:
    registry = CollectorRegistry()
    server = ServerUnderTest(registry=registry)
    server.measures.watch(lane=lambda: {"open": 3, "accepted": 5, "refused_peer": 1}, pending=lambda: 2)
    await server.ask(request_bytes())
    await server.ask(request_bytes("/nothing"))
    text = generate_latest(registry).decode()
    series = (
        'aadpodidentity_nmi_operations_duration_seconds_count{namespace="shop",'
        'operation_type="/metadata/identity/oauth2/token",resource="https://management.azure.com/",status_code="200"}'
    )
    assert f"{series} 1.0" in text
    assert 'le="5e-05"' in text
    assert 'le="+Inf"' in text
    assert 'aadpodidentity_nmi_refusals_total{reason="unknown_path"} 1.0' in text
    assert "aadpodidentity_nmi_connections_open 3.0" in text
    assert "aadpodidentity_nmi_lane_accepted_total 5.0" in text
    assert "aadpodidentity_nmi_pending_requests 2.0" in text


INVENTED = 500
USUAL = [
    *(f"{TOKEN_PATH}?resource=api://x", f"{TOKEN_PATH}?resource=https://vault.azure.net", TOKEN_PATH),
    *(f"{TOKEN_PATH}?resource=refuse", "/metadata/identity/x", "/metadata/identity/oauth2/token/x"),
    *("/metadata/instance", "/metadata/x", "/metadata/y", "/x", "/%", "/host/token"),
]


async def request_all(running: Running, targets: list[str]) -> set[str]:
    """Request all *targets*, with and without a pod at the address. Return the series of all metrics."""
    for pod_is_known in (True, False):
        if pod_is_known:
            running.index.put(LOCAL, running.entry.record)
        else:
            running.index.remove(LOCAL, running.entry.record)
        for target in targets:
            async with running.client() as client:
                await client.ask(request_bytes(target, headers=("Metadata: true", "Connection: close")))
    lines = generate_latest(running.registry).decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


async def test_five_hundred_paths_and_audiences_make_no_series() -> None:
    """Through a whole server, over sockets."""
    chosen = random.Random(20)

    def issued(request: object) -> ServiceResult:
        refuse = "refuse" in str(request)
        return Refusal(Reason.STILL_ASSIGNING, "No.") if refuse else grant(running.entry.record)

    def word() -> str:
        return "".join(chosen.choices(string.ascii_letters + string.digits + "-_.%2F;~", k=chosen.randint(1, 12)))

    paths = [f"{chosen.choice(('', '/metadata', '/metadata/x'))}/{word()}" for _ in range(INVENTED)]
    audiences = [f"{chosen.choice(('api://', 'https://', 'refuse'))}{word()}" for _ in range(INVENTED)]
    async with serving(ServerPolicy(proxied_paths=ProxiedPaths(("/metadata/x",)))) as running:
        running.token_service.respond = issued
        before = await request_all(running, USUAL)
        after = await request_all(running, [*paths, *(f"{TOKEN_PATH}?resource={resource}" for resource in audiences)])
    assert after == before
    assert len(before) > 100


THEIRS = "x-ms-client-request-id: 0f0f-their-id"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The lines of the server's loggers, one JSON object per line."""
    stream, log = io.StringIO(), logging.getLogger("nmi.server")
    handler, level = logging.StreamHandler(stream), log.level
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield stream
    log.removeHandler(handler)
    log.setLevel(level)


def lines(written: io.StringIO, message: str) -> list[dict[str, object]]:
    records = [json.loads(line) for line in written.getvalue().splitlines()]
    return [
        {name: line[name] for name in line if name not in {"time", "logger"}}
        for line in records
        if message in line["message"]
    ]


async def test_a_refusal_has_one_line_with_the_facts_that_an_operator_needs(
    server: ServerUnderTest, written: io.StringIO
) -> None:
    server.token_service.respond = lambda _: Refusal(
        Reason.UPSTREAM_REFUSED, "No.", "check the client id", identity="shop/id", correlation="azure-id"
    )
    reply = await server.ask(request_bytes(headers=("Metadata: true", THEIRS)))
    (line,) = lines(written, "request refused")

    assert line == {
        "level": "warning",
        "message": "request refused; follow the field error",
        "pod": "shop/cart",
        "namespace": "shop",
        "uid": "uid-cart",
        "identity": "shop/id",
        "status": 403,
        "outcome": "refused",
        "reason": "upstream_refused",
        "error": "check the client id",
        "request": reply.headers["x-ms-request-id"],
        "client_request": "0f0f-their-id",
        "correlation": "azure-id",
        "path": "/metadata/identity/oauth2/token",
        "peer": PEER,
        "resource": RESOURCE,
    }
    assert server.measures.refusals(Reason.UPSTREAM_REFUSED) == 1
    await server.ask(request_bytes(headers=("Metadata: true", THEIRS)))
    assert len(lines(written, "request refused")) == 1, "a repeat is counted"


async def test_a_grant_has_one_line_without_the_token(server: ServerUnderTest, written: io.StringIO) -> None:
    server.token_service.respond = lambda _: replace(grant(server.entry.record), correlation="azure-id")
    await server.ask(request_bytes(headers=("Metadata: true", THEIRS)))
    (line,) = lines(written, "token granted")

    assert isinstance(line.pop("request"), str)
    assert line == {
        "level": "info",
        "message": "token granted; repeats are summarized once a minute",
        "pod": "shop/cart",
        "namespace": "shop",
        "uid": "uid-cart",
        "identity": "shop/cart-identity",
        "outcome": "granted",
        "client_request": "0f0f-their-id",
        "correlation": "azure-id",
        "peer": PEER,
        "resource": RESOURCE,
    }
    assert "secret" not in written.getvalue()


async def test_an_exempt_pods_answer_has_a_line_too(server: ServerUnderTest, written: io.StringIO) -> None:
    server.token_service.respond = lambda _: RawResponse(400, b"{}", "application/json")
    reply = await server.ask(request_bytes())
    (line,) = lines(written, "token request forwarded to IMDS")

    assert (line["outcome"], line["status"], line["pod"]) == ("exempt", 400, "shop/cart")
    assert line["request"] == reply.headers["x-ms-request-id"]


async def test_each_request_has_a_line_with_its_id_at_verbosity_4(
    server: ServerUnderTest, written: io.StringIO
) -> None:
    first = await server.ask(request_bytes("/nothing", headers=(THEIRS,)))
    await server.ask(request_bytes())
    refused, granted = lines(written, "request answered")

    assert (refused["request"], refused["client_request"]) == (first.headers["x-ms-request-id"], "0f0f-their-id")
    assert refused["status"] == 404
    assert (granted["status"], granted["path"]) == (200, "/metadata/identity/oauth2/token")
    assert granted["request"] not in {None, refused["request"]}
    assert "client_request" not in granted


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ((), ""),
        (("a-b",), "a-b"),
        (("a" * 500,), "a" * CLIENT_REQUEST_CHARS),
        (("caf\xe9",), ""),
        (("a\tb",), ""),
        (("first", "second"), "first"),
    ],
)
def test_a_clients_request_id_is_truncated_and_sanitised(sent: tuple[str, ...], kept: str) -> None:
    fields = tuple(("x-ms-client-request-id", request_id) for request_id in sent)
    request = Request("GET", TARGET, fields, http_1_0=False, keep_alive=True)

    assert Call.of(PEER, 0, request).client_request_id == kept


async def test_malformed_bytes_have_a_request_id_too(written: io.StringIO) -> None:
    reply = await ServerUnderTest().ask(b"\x16\x03\x01\0\0\0")
    (line,) = lines(written, "request refused")

    assert line["request"] == reply.headers["x-ms-request-id"]
    assert (line["reason"], line["path"]) == ("bad_syntax", "other")
