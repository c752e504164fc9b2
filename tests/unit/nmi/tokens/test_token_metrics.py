"""The token metrics of a scrape, and the record of identities whose tokens applications can use as their credential.

Excluded: the increments of counters, which the tests of their modules cover.
"""

import asyncio
from math import inf

import msgspec
import pytest

from nmi.tokens.application_credentials import IDENTITIES_MAX, PER_NAMESPACE_MAX, ApplicationCredentials
from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
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
        return [fake.registry.get_sample_value(name, {"operation_type": each}) for each in OPERATIONS]

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
    fake.source.failures.clear()
    await asyncio.sleep(60.0)
    await fake.token()
    assert value(SOONEST) == pytest.approx(3600.0, abs=60.0), "it has been renewed"
    assert value(OLDEST) == pytest.approx(0.0, abs=60.0)


@pytest.mark.parametrize(("minutes", "seen"), [(29, 100.0), (31, inf)])
async def test_a_token_that_cannot_be_renewed_is_reported_for_half_an_hour_after_its_last_use(
    fake: Bench, minutes: float, seen: float
) -> None:
    fake.source.lifetime = 3600.0
    await fake.token()
    await fake.token()
    fake.source.failures = [Unreachable("down")] * 100
    await asyncio.sleep(3500.0)
    fake.unasked_seconds = minutes * 60.0
    assert fake.registry.get_sample_value(SOONEST) == pytest.approx(seen)


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
        return [fake.registry.get_sample_value(name, {"state": each}) for each in ("closed", "half_open", "open")]

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
    ("resource", "recorded"),
    [
        (AUDIENCE, True),
        ("api://azureadtokenexchange/", True),
        ("api://AzureADTokenExchangeUSGov", True),
        ("api://AzureADTokenExchangeChina", True),
        ("api://AzureADToken", False),
        ("https://management.azure.com/", False),
        (f"https://x/{AUDIENCE}", False),
    ],
)
def test_the_audience_of_each_cloud_is_known(resource: str, *, recorded: bool) -> None:
    record = ApplicationCredentials()
    record.record(identity("a"), resource)
    assert dict(record.tokens) == ({"ns/a": 1} if recorded else {})


@pytest.mark.parametrize("type_", [1, 2, 3])
def test_only_identities_of_type_0_are_recorded(type_: int) -> None:
    record = ApplicationCredentials()
    record.record(identity("a", type_=type_), AUDIENCE)
    assert (dict(record.tokens), record.unrecorded) == ({}, 0)


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
