"""The token metrics of a scrape. Excluded: the increments of counters, which the tests of their modules cover."""

import asyncio
from math import inf

import pytest

from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from tests.nmi.tokens.fakes import REQUEST, Bench, identity
from tests.virtual_time import settle

CALLS = "aadpodidentity_imds_operations_duration_seconds_count"
ERRORS = "aadpodidentity_imds_operations_errors_count"
THROTTLED = "aadpodidentity_nmi_upstream_throttled_total"
OLDEST = "aadpodidentity_nmi_token_oldest_age_seconds"
SOONEST = "aadpodidentity_nmi_token_soonest_expiry_seconds"
OPERATIONS = ("adal_token_msi", "adal_token_msi_userassignedid", "adal_token")


async def test_each_kind_of_call_has_the_go_implementations_name() -> None:
    bench = Bench()
    bench.measures.observe_imds(False, 0.01, None)
    bench.measures.observe_imds(True, 0.01, AzureError("down", status=500))
    bench.measures.observe_imds(True, 0.01, None)
    bench.measures.observe_aad(0.3, Refused("no", status=401))
    value = bench.registry.get_sample_value
    assert [value(CALLS, {"operation_type": each}) for each in OPERATIONS] == [1.0, 2.0, 1.0]
    assert [value(ERRORS, {"operation_type": each}) for each in OPERATIONS] == [0.0, 1.0, 1.0]


async def test_only_a_429_counts_as_throttling() -> None:
    bench = Bench()
    bench.measures.observe_imds(True, 0.01, Throttled("slower", status=429))
    bench.measures.observe_imds(True, 0.01, AzureError("down", status=500))
    bench.measures.observe_aad(0.3, Throttled("slower", status=429))
    value = bench.registry.get_sample_value
    assert [value(THROTTLED, {"operation_type": each}) for each in OPERATIONS] == [0.0, 1.0, 1.0]


async def test_a_used_token_that_cannot_be_renewed_is_reported_near_its_end() -> None:
    bench = Bench()
    bench.source.lifetime = 3600.0
    value = bench.registry.get_sample_value
    await bench.token()
    assert value(SOONEST) == inf, "it was requested only once, so its expiry affects no pod"
    assert value(OLDEST) == 0.0
    await bench.token()
    assert value(SOONEST) == pytest.approx(3600.0)
    bench.source.failures = [Unreachable("down")] * 100
    await asyncio.sleep(3500.0)
    assert value(SOONEST) == pytest.approx(100.0)
    assert value(OLDEST) == pytest.approx(3500.0)
    bench.source.failures.clear()
    await asyncio.sleep(60.0)
    await bench.token()
    assert value(SOONEST) == pytest.approx(3600.0, abs=60.0), "it has been renewed"
    assert value(OLDEST) == pytest.approx(0.0, abs=60.0)


@pytest.mark.parametrize(("minutes", "seen"), [(29, 100.0), (31, inf)])
async def test_a_token_that_cannot_be_renewed_is_reported_for_half_an_hour_after_its_last_use(
    minutes: float, seen: float
) -> None:
    bench = Bench()
    bench.source.lifetime = 3600.0
    await bench.token()
    await bench.token()
    bench.source.failures = [Unreachable("down")] * 100
    await asyncio.sleep(3500.0)
    bench.unasked_seconds = minutes * 60.0
    assert bench.registry.get_sample_value(SOONEST) == pytest.approx(seen)


async def test_an_unused_token_expires_without_a_report() -> None:
    bench = Bench()
    bench.source.lifetime = 3600.0
    await bench.token()
    await asyncio.sleep(3500.0)
    assert bench.registry.get_sample_value(SOONEST) == inf


async def test_the_wait_in_seconds_and_the_calls_in_progress_are_exposed() -> None:
    bench = Bench(at_once=1)
    value = bench.registry.get_sample_value
    bench.source.gate.clear()
    first = asyncio.create_task(bench.broker.token(identity("a"), REQUEST, "ns/a"))
    await settle()
    second = asyncio.create_task(bench.broker.token(identity("b"), REQUEST, "ns/b"))
    await settle()
    assert value("aadpodidentity_nmi_upstream_in_flight") == 1.0
    assert value("aadpodidentity_nmi_governor_waiting") == 1.0
    await asyncio.sleep(2.0)
    bench.source.gate.set()
    await asyncio.gather(first, second)
    assert value("aadpodidentity_nmi_governor_wait_seconds_sum") == pytest.approx(2.0)
    assert value("aadpodidentity_nmi_governor_wait_seconds_count") == 2.0


async def test_the_state_of_the_breaker_is_one_of_three() -> None:
    bench = Bench()

    def states() -> list[float | None]:
        name = "aadpodidentity_nmi_imds_breaker_state"
        return [bench.registry.get_sample_value(name, {"state": each}) for each in ("closed", "half_open", "open")]

    assert states() == [1.0, 0.0, 0.0]
    bench.source.failures = [AzureError("down", status=500)] * 5
    for _ in range(6):
        with pytest.raises(AzureError):
            await bench.token()
    assert states() == [0.0, 0.0, 1.0]
    await asyncio.sleep(6.5)
    assert states() == [0.0, 1.0, 0.0]
    await bench.token()
    assert states() == [1.0, 0.0, 0.0]
    value = bench.registry.get_sample_value
    assert value("aadpodidentity_nmi_imds_breaker_opened_total") == 1.0
    assert value("aadpodidentity_nmi_imds_breaker_refused_total") == 1.0
