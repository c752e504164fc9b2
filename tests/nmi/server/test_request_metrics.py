"""The request metrics. For any requests of pods, they keep their number of series. Excluded: exposition over HTTP."""

import random
import string

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nmi.refusal import Reason, Refusal
from nmi.server.metrics import OTHER, SERIES_MAX, ServerMetrics, audience
from nmi.server.policy import ServerPolicy
from nmi.server.target import ProxiedPaths
from tests.nmi.server.fakes import TOKEN_PATH, Issued, ServerUnderTest, grant, refusing, request_bytes
from tests.nmi.server.running import LOCAL, Running, serving


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


async def test_an_unknown_peer_has_no_namespace(server: ServerUnderTest) -> None:
    server.index.remove("10.0.0.7", server.entry.record)
    server.issuer.answer = refusing(Reason.UNKNOWN_ADDRESS)
    await server.ask(request_bytes())
    assert server.labels() == {(TOKEN_PATH, "404", "", "https://management.azure.com/")}


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


async def asked_as_each(running: Running, targets: list[str]) -> set[str]:
    """Request all *targets*, with and without a pod at the address. Return the series of all metrics."""
    for known in (True, False):
        if known:
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

    def issued(request: object) -> Issued:
        refuse = "refuse" in str(request)
        return Refusal(Reason.STILL_ASSIGNING, "No.") if refuse else grant(running.entry.record)

    def word() -> str:
        return "".join(chosen.choices(string.ascii_letters + string.digits + "-_.%2F;~", k=chosen.randint(1, 12)))

    paths = [f"{chosen.choice(('', '/metadata', '/metadata/x'))}/{word()}" for _ in range(INVENTED)]
    audiences = [f"{chosen.choice(('api://', 'https://', 'refuse'))}{word()}" for _ in range(INVENTED)]
    async with serving(ServerPolicy(proxied_paths=ProxiedPaths(("/metadata/x",)))) as running:
        running.issuer.answer = issued
        before = await asked_as_each(running, USUAL)
        after = await asked_as_each(running, [*paths, *(f"{TOKEN_PATH}?resource={each}" for each in audiences)])
    assert after == before
    assert len(before) > 100
