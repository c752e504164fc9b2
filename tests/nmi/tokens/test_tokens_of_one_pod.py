"""Tokens of one pod only: stored, fetched and refreshed separately, and dropped with the pod."""

import asyncio
import logging

import msgspec
import pytest

from nmi.identity.request import TokenRequest
from nmi.tokens.cache import TOKENS_PER_IDENTITY
from nmi.tokens.source import Workload
from podidentity.azure.errors import Refused, Unreachable
from podidentity.resources import EXCHANGE_ANNOTATION
from tests.nmi.tokens.fakes import REQUEST, Bench, identity
from tests.virtual_time import settle

A = Workload("ns", "a", "uid-a", "builder")
B = Workload("ns", "b", "uid-b", "builder")


@pytest.fixture
def per_pod(fake: Bench) -> Bench:
    fake.source.per_pod = True
    return fake


async def token(bench: Bench, workload: Workload, within: float = 45.0) -> str:
    cached = await bench.broker.token(identity(), REQUEST, f"ns/{workload.pod}", within=within, workload=workload)
    return cached.token.access_token


async def test_each_pod_has_its_own_token(per_pod: Bench) -> None:
    assert [await token(per_pod, each) for each in (A, B, A, B)] == ["token-1", "token-2", "token-1", "token-2"]
    assert per_pod.source.workloads == [A, B]


async def test_other_sources_share_tokens_and_do_not_know_the_pod(fake: Bench) -> None:
    assert [await token(fake, each) for each in (A, B)] == ["token-1", "token-1"]
    assert fake.source.workloads == [None]


async def test_requests_of_one_pod_share_a_fetch_and_those_of_another_pod_do_not(per_pod: Bench) -> None:
    per_pod.source.gate.clear()
    asking = [asyncio.create_task(token(per_pod, each)) for each in (A, A, B)]
    await settle()
    per_pod.source.gate.set()
    assert await asyncio.gather(*asking) == ["token-1", "token-1", "token-2"]


async def test_many_pods_with_one_identity_do_not_evict_each_others_tokens(per_pod: Bench) -> None:
    pods = [Workload("ns", f"p{number}", f"uid-{number}", "builder") for number in range(TOKENS_PER_IDENTITY + 1)]
    first = [await token(per_pod, each) for each in pods]
    assert [await token(per_pod, each) for each in pods] == first


async def test_a_token_is_renewed_for_the_same_pod(per_pod: Bench) -> None:
    await token(per_pod, A)
    await token(per_pod, A)
    await asyncio.sleep(13 * 3600)
    await settle()
    assert per_pod.source.workloads == [A, A]
    assert await token(per_pod, A) == "token-2"


async def test_a_token_is_dropped_with_the_pod_and_not_renewed(per_pod: Bench) -> None:
    for each in (A, B, A, B):
        await token(per_pod, each)
    per_pod.broker.forget_pod("uid-a")
    assert len(per_pod.broker._tokens) == len(per_pod.broker._timers) == 1
    await asyncio.sleep(13 * 3600)
    await settle()
    assert per_pod.source.workloads == [A, B, B]
    assert await token(per_pod, B) == "token-3"


async def test_a_fetch_ends_with_its_pod_and_leaves_nothing_behind(per_pod: Bench) -> None:
    per_pod.source.gate.clear()
    gone, there = (asyncio.create_task(token(per_pod, each)) for each in (A, B))
    await settle()
    per_pod.broker.forget_pod("uid-a")
    with pytest.raises(Unreachable):
        await gone
    per_pod.source.gate.set()
    assert await there == "token-2"
    assert len(per_pod.broker._tokens) == 1
    assert not per_pod.broker._flights


async def test_forgetting_an_unknown_pod_drops_nothing(fake: Bench) -> None:
    await fake.token()
    asking = await fake.hold(TokenRequest("https://another"))
    fake.broker.forget_pod("")
    fake.broker.forget_pod("uid-x")
    assert len(fake.broker._tokens) == 1
    fake.source.gate.set()
    assert await asking == "token-2"


async def test_a_waiter_at_its_time_limit_gets_the_last_failure_of_the_fetch(per_pod: Bench) -> None:
    per_pod.source.gate.clear()
    per_pod.source.planned_failures = [Refused("no such credential", status=401, code="AADSTS700213")]
    with pytest.raises(Refused, match="no such credential"):
        await token(per_pod, A, within=1.0)
    per_pod.source.planned_failures = []
    with pytest.raises(Unreachable):
        await token(per_pod, B, within=1.0)
    per_pod.source.gate.set()


@pytest.mark.parametrize(("type_", "whom"), [(0, "IMDS"), (1, "sign-in endpoint"), (3, "sign-in endpoint")])
async def test_the_log_line_of_a_failed_renewal_names_the_endpoint(
    per_pod: Bench, caplog: pytest.LogCaptureFixture, type_: int, whom: str
) -> None:
    per_pod.broker._sources = {type_: per_pod.source}
    for _ in range(2):
        await per_pod.broker.token(identity(type_=type_), REQUEST, "ns/a", workload=A)
    per_pod.source.failures = [Refused("no such credential", status=401, code="AADSTS700213")]
    with caplog.at_level(logging.WARNING, "nmi.tokens.refresh"):
        await asyncio.sleep(13 * 3600)
        await settle()
    await per_pod.broker.aclose()
    (line,) = (record.getMessage() for record in caplog.records if "token refresh failed" in record.getMessage())
    assert [each for each in ("IMDS", "sign-in endpoint") if each in line] == [whom]


async def test_a_pod_that_requests_ever_new_audiences_evicts_only_its_own_tokens(per_pod: Bench) -> None:
    first = await token(per_pod, B)
    for number in range(3 * 16):
        await per_pod.broker.token(identity(), TokenRequest(f"https://{number}"), "ns/a", workload=A)
    assert len(per_pod.broker._tokens) == 16 + 1
    assert await token(per_pod, B) == first


async def test_a_changed_exchange_needs_a_new_token_which_is_renewed_by_the_new_exchange(per_pod: Bench) -> None:

    async def by(exchange: str) -> str:
        made = identity(type_=3)
        meta = msgspec.structs.replace(made.metadata, annotations={EXCHANGE_ANNOTATION: exchange} if exchange else None)
        chosen = msgspec.structs.replace(made, metadata=meta)
        return (await per_pod.broker.token(chosen, REQUEST, "ns/a", workload=A)).token.access_token

    assert [await by(each) for each in ("", "identityBindings", "identityBindings")] == [
        "token-1",
        "token-2",
        "token-2",
    ]
    await asyncio.sleep(12 * 3600 + 2)
    await settle()
    (*_, last) = per_pod.source.requests
    assert last.identity.metadata.annotation(EXCHANGE_ANNOTATION) == "identityBindings"
    assert len(per_pod.source.requests) == 3, "the former token is not renewed"
