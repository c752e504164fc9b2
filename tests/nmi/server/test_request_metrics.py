"""The request metrics, and that no request creates a new series. Excluded: exposition over HTTP."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nmi.refusal import Reason
from nmi.server.metrics import OTHER, SERIES_MAX, ServerMetrics, audience
from tests.nmi.server.fakes import TOKEN_PATH, ServerUnderTest, grant, refusing, request_bytes


def labels(server: ServerUnderTest) -> set[tuple[str, ...]]:
    return {series.labels for series in server.measures.histogram.all_series() if sum(series.counts())}


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


async def test_a_token_is_counted_under_its_route_status_namespace_and_audience(server: ServerUnderTest) -> None:
    await server.ask(request_bytes())

    assert labels(server) == {(TOKEN_PATH, "200", "shop", "https://management.azure.com/")}


async def test_values_that_a_pod_invents_make_no_new_series(server: ServerUnderTest) -> None:
    for n in range(20):
        await server.ask(request_bytes(f"{TOKEN_PATH}?resource=api://{n}"))
        await server.ask(request_bytes(f"/invented/{n}"))
        await server.ask(request_bytes(f"/metadata/identity/oauth2/{n}"))
        await server.ask(b"GET /%d HTTP/1.1\r\nbad\r\n\r\n" % n)

    assert labels(server) == {
        (TOKEN_PATH, "200", "shop", OTHER),
        ("other", "404", "shop", ""),
        ("/metadata/identity", "404", "shop", ""),
        ("other", "400", "shop", ""),
    }


async def test_an_unknown_peer_has_no_namespace(server: ServerUnderTest) -> None:
    server.index.remove("10.0.0.7", server.entry.record)
    server.issuer.answer = refusing(Reason.UNKNOWN_ADDRESS)
    await server.ask(request_bytes())

    assert labels(server) == {(TOKEN_PATH, "404", "", "https://management.azure.com/")}


def test_the_number_of_series_is_bounded_for_any_namespaces() -> None:
    measures = ServerMetrics()
    made = {measures.series("route", 200, f"namespace-{n}", OTHER).labels for n in range(SERIES_MAX + 100)}

    assert len(made) == SERIES_MAX + 1
    assert ("route", "200", OTHER, OTHER) in made


async def test_prometheus_parses_the_metrics() -> None:
    registry = CollectorRegistry()
    server = ServerUnderTest(registry=registry)
    server.measures.watch(lane=lambda: {"open": 3, "accepted": 5, "refused_peer": 1}, pending=lambda: 2)
    server.issuer.answer = lambda _: grant(server.entry.record)
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
