"""What an operator sees of fetches: metrics of a scrape, the record of identities whose tokens applications can use as
their credential, and log lines about endpoints that hang or fail.

Excluded: the increments of counters, which the tests of their modules cover.
"""

import asyncio
import logging
from math import inf

import msgspec
import pytest

from nmi.tokens.endpoint_failures import ENDPOINTS_MAX, EndpointFailures
from nmi.tokens.metrics import (
    IDENTITIES_MAX,
    PER_NAMESPACE_MAX,
    SERVICE_PRINCIPAL,
    ApplicationCredentials,
    TokenMetrics,
)
from nmi.tokens.sign_in import ATTEMPT_SECONDS
from podidentity.azure.clouds import Endpoint
from podidentity.azure.errors import AzureError, NotYet, Refused, Throttled, Unreachable
from podidentity.azure.imds import ImdsSource
from podidentity.telemetry.logs import FIELDS
from tests.support.memory_network import MemoryNetwork
from tests.support.nmi.tokens.endpoint_lines import SECRET, lines, sign_in
from tests.support.nmi.tokens.fakes import REQUEST, Bench
from tests.support.nmi_objects import identity
from tests.support.virtual_time import settle

CALLS = "aadpodidentity_imds_operations_duration_seconds_count"
ERRORS = "aadpodidentity_imds_operations_errors_count"
THROTTLED = "aadpodidentity_nmi_upstream_throttled_total"
OLDEST = "aadpodidentity_nmi_token_oldest_age_seconds"
SOONEST = "aadpodidentity_nmi_token_soonest_expiry_seconds"
OPERATIONS = ("adal_token_msi", "adal_token_msi_userassignedid", "adal_token")


async def test_each_kind_of_call_has_the_go_implementations_name(fake: Bench) -> None:
    observed: list[tuple[bool | None, AzureError | None]] = [
        *((False, None), (True, AzureError("down", status=500)), (True, None), (None, Refused("no", status=401))),
        *((True, Throttled("slower", status=429)), (None, Throttled("slower", status=429))),
    ]
    for named, error in observed:
        if named is None:
            fake.measures.observe_aad(0.3, error)
        else:
            fake.measures.observe_imds(named, 0.01, error)

    def values(name: str) -> list[float | None]:
        return [fake.registry.get_sample_value(name, {"operation_type": operation}) for operation in OPERATIONS]

    assert values(CALLS) == [1.0, 3.0, 2.0]
    assert values(ERRORS) == [0.0, 2.0, 2.0]
    assert values(THROTTLED) == [0.0, 1.0, 1.0], "only a 429"


async def test_a_used_token_that_cannot_be_renewed_is_reported_near_its_end(fake: Bench) -> None:
    fake.source.lifetime = 3600.0
    value = fake.registry.get_sample_value
    await fake.token()
    assert value(SOONEST) == inf, "it was requested only once, so its expiry affects no pod"
    assert value(OLDEST) == 0.0
    await fake.token()
    assert value(SOONEST) == pytest.approx(3600.0)
    fake.source.failures = [Unreachable("down")] * 100
    await asyncio.sleep(3500.0)
    assert value(SOONEST) == pytest.approx(100.0)
    assert value(OLDEST) == pytest.approx(3500.0)
    for minutes, seen in ((29, 100.0), (31, inf)):
        fake.unasked_seconds = minutes * 60.0
        assert value(SOONEST) == pytest.approx(seen), "for half an hour after its last use"
    fake.unasked_seconds = 0.0
    fake.source.failures.clear()
    await asyncio.sleep(60.0)
    await fake.token()
    assert value(SOONEST) == pytest.approx(3600.0, abs=60.0), "it has been renewed"
    assert value(OLDEST) == pytest.approx(0.0, abs=60.0)


async def test_the_wait_in_seconds_and_the_calls_in_progress_are_exposed() -> None:
    bench = Bench(at_once=1)
    value = bench.registry.get_sample_value
    bench.source.gate.clear()
    first = asyncio.create_task(bench.broker.token(identity(client_id="a"), REQUEST, "ns/a"))
    await settle()
    second = asyncio.create_task(bench.broker.token(identity(client_id="b"), REQUEST, "ns/b"))
    await settle()
    assert value("aadpodidentity_nmi_upstream_in_flight") == 1.0
    assert value("aadpodidentity_nmi_governor_waiting") == 1.0
    await asyncio.sleep(2.0)
    bench.source.gate.set()
    await asyncio.gather(first, second)
    assert value("aadpodidentity_nmi_governor_wait_seconds_sum") == pytest.approx(2.0)
    assert value("aadpodidentity_nmi_governor_wait_seconds_count") == 2.0


async def test_the_state_of_the_breaker_is_one_of_three(fake: Bench) -> None:

    def states() -> list[float | None]:
        name = "aadpodidentity_nmi_imds_breaker_state"
        return [fake.registry.get_sample_value(name, {"state": state}) for state in ("closed", "half_open", "open")]

    assert states() == [1.0, 0.0, 0.0]
    fake.source.failures = [AzureError("down", status=500)] * 5
    for _ in range(6):
        with pytest.raises(AzureError):
            await fake.token()
    assert states() == [0.0, 0.0, 1.0]
    await asyncio.sleep(6.5)
    assert states() == [0.0, 1.0, 0.0]
    await fake.token()
    assert states() == [1.0, 0.0, 0.0]
    value = fake.registry.get_sample_value
    assert value("aadpodidentity_nmi_imds_breaker_opened_total") == 1.0
    assert value("aadpodidentity_nmi_imds_breaker_refused_total") == 1.0


AUDIENCE = "api://AzureADTokenExchange"
TOKENS = "aadpodidentity_nmi_application_credential_tokens_total"
UNRECORDED = "aadpodidentity_nmi_application_credential_tokens_unrecorded_total"
FOR_APPLICATIONS = msgspec.structs.replace(REQUEST, resource=AUDIENCE)


async def test_a_fetch_for_the_audience_is_recorded_and_a_cached_answer_is_not(fake: Bench) -> None:
    fake.source.failures = [Refused("no", status=400)]
    with pytest.raises(Refused):
        await fake.token(FOR_APPLICATIONS)
    await fake.token()
    assert fake.broker.state()["application_credentials"] == {"tokens": {}, "unrecorded": 0}
    await asyncio.sleep(10.0)  # the time of a cached refusal
    name = "/".join(identity().key)
    for _ in range(3):
        await fake.token(FOR_APPLICATIONS)
    assert fake.registry.get_sample_value(TOKENS, {"identity": name}) == 1.0
    assert fake.broker.state()["application_credentials"] == {"tokens": {name: 1}, "unrecorded": 0}


async def test_a_token_of_the_previous_nmi_is_recorded_when_it_is_used() -> None:
    before, after = Bench(), Bench()
    await before.token(FOR_APPLICATIONS)
    after.broker.receive_tokens(before.broker.tokens_to_pass())
    await after.token(FOR_APPLICATIONS)
    assert after.source.sent == 0
    assert after.registry.get_sample_value(TOKENS, {"identity": "/".join(identity().key)}) == 1.0


@pytest.mark.parametrize(
    ("type_", "resource", "recorded"),
    [
        (0, AUDIENCE, True),
        (0, "api://azureadtokenexchange/", True),
        (0, "api://AzureADTokenExchangeUSGov", True),
        (0, "api://AzureADTokenExchangeChina", True),
        (0, "api://AzureADToken", False),
        (0, "https://management.azure.com/", False),
        (0, f"https://x/{AUDIENCE}", False),
        (1, AUDIENCE, False),
        (2, AUDIENCE, False),
        (3, AUDIENCE, False),
    ],
)
def test_identities_of_type_0_are_recorded_for_the_audience_of_each_cloud(
    type_: int, resource: str, *, recorded: bool
) -> None:
    record = ApplicationCredentials()
    record.record(identity("a", type_=type_), resource)
    assert (dict(record.tokens), record.unrecorded) == ({"ns/a": 1} if recorded else {}, 0)


def test_one_namespace_cannot_take_all_places() -> None:
    record = ApplicationCredentials()
    for number in range(1000):
        record.record(identity(f"i{number}", namespace="loud"), AUDIENCE)
    record.record(identity("a", namespace="quiet"), AUDIENCE)
    record.record(identity("i0", namespace="loud"), AUDIENCE)
    assert len(record.tokens) == PER_NAMESPACE_MAX + 1
    assert (record.tokens["quiet/a"], record.tokens["loud/i0"]) == (1, 2)
    assert record.unrecorded == 1000 - PER_NAMESPACE_MAX


def test_the_record_is_bounded() -> None:
    record = ApplicationCredentials()
    for number in range(5000):
        record.record(identity("a", namespace=f"n{number}"), AUDIENCE)
    assert (len(record.tokens), record.unrecorded) == (IDENTITIES_MAX, 5000 - IDENTITIES_MAX)


def test_a_text_that_is_no_name_is_only_counted() -> None:
    record = ApplicationCredentials()
    record.record(identity("a" * 253, namespace="n" * 63), AUDIENCE)
    record.record(identity("a" * 254, namespace="n" * 63), AUDIENCE)
    assert (len(record.tokens), record.unrecorded) == (1, 1)
    assert len(msgspec.json.encode(record.state())) < 1000


URL = "https://login.example"


class Closing(asyncio.Protocol):
    """A server that closes a connection with the first data."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # type: ignore[explicit-override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # type: ignore[explicit-override]
        self._transport.close()


def errors(metrics: TokenMetrics) -> float:
    (family,) = (metric for metric in metrics.collect() if metric.name.endswith("imds_operations_errors_count"))
    (count,) = (sample.value for sample in family.samples if sample.labels["operation_type"] == SERVICE_PRINCIPAL)
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
    assert [type(error) for error in seen] == [Unreachable]


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
