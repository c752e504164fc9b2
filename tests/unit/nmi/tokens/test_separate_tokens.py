"""Tokens of one pod, and of one version of a Secret: stored, fetched and renewed separately, and dropped with them.

Excluded: reading the Secret.
"""

import asyncio
import logging

import msgspec
import pytest

from nmi.identity.request import TokenRequest
from nmi.tokens.source import PolicyError, Workload
from podidentity.azure.errors import Refused, Unreachable
from podidentity.resources import EXCHANGE_ANNOTATION
from tests.support.nmi.tokens.fakes import FORCE_REFRESH, REQUEST, Bench
from tests.support.nmi_objects import RESOURCE, identity
from tests.support.virtual_time import settle

A = Workload("ns", "a", "uid-a", "builder")
B = Workload("ns", "b", "uid-b", "builder")


@pytest.fixture
def per_pod(fake: Bench) -> Bench:
    fake.source.per_pod = True
    return fake


async def token(bench: Bench, workload: Workload, within: float = 45.0) -> str:
    cached = await bench.broker.token(identity(), REQUEST, f"ns/{workload.pod}", within=within, workload=workload)
    return cached.token.access_token


async def test_other_sources_share_tokens_and_do_not_know_the_pod(fake: Bench) -> None:
    assert [await token(fake, pod) for pod in (A, B)] == ["token-1", "token-1"]
    assert fake.source.workloads == [None]


async def test_requests_of_one_pod_share_a_fetch_and_those_of_another_pod_do_not(per_pod: Bench) -> None:
    per_pod.source.gate.clear()
    fetching = [asyncio.create_task(token(per_pod, pod)) for pod in (A, A, B)]
    await settle()
    per_pod.source.gate.set()
    assert await asyncio.gather(*fetching) == ["token-1", "token-1", "token-2"]


async def test_a_token_is_dropped_with_the_pod_and_not_renewed(per_pod: Bench) -> None:
    for pod in (A, B, A, B):
        await token(per_pod, pod)
    per_pod.broker.forget_pod("uid-a")
    assert len(per_pod.broker._tokens) == len(per_pod.broker._timers) == 1
    await asyncio.sleep(13 * 3600)
    await settle()
    assert per_pod.source.workloads == [A, B, B]
    assert await token(per_pod, B) == "token-3"


async def test_a_fetch_ends_with_its_pod_and_leaves_nothing_behind(per_pod: Bench) -> None:
    per_pod.source.gate.clear()
    gone, there = (asyncio.create_task(token(per_pod, pod)) for pod in (A, B))
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
    fetching = await fake.hold(TokenRequest("https://another"))
    fake.broker.forget_pod("")
    fake.broker.forget_pod("uid-x")
    assert len(fake.broker._tokens) == 1
    fake.source.gate.set()
    assert await fetching == "token-2"


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
    with caplog.at_level(logging.WARNING, "nmi.tokens.flight"):
        await asyncio.sleep(13 * 3600)
        await settle()
    await per_pod.broker.aclose()
    (line,) = (record.getMessage() for record in caplog.records if "token refresh failed" in record.getMessage())
    assert [endpoint for endpoint in ("IMDS", "sign-in endpoint") if endpoint in line] == [whom]


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

    assert [await by(exchange) for exchange in ("", "identityBindings", "identityBindings")] == [
        "token-1",
        "token-2",
        "token-2",
    ]
    await asyncio.sleep(12 * 3600 + 2)
    await settle()
    (*_, last) = per_pod.source.requests
    assert last.identity.metadata.annotation(EXCHANGE_ANNOTATION) == "identityBindings"
    assert len(per_pod.source.requests) == 3, "the former token is not renewed"


OTHER = TokenRequest(RESOURCE + "/other")


async def test_a_rotation_replaces_each_token_and_its_timer_at_the_next_fetch(fake: Bench) -> None:
    fake.source.stored_version = "uid/1"
    first, other = await fake.token(), await fake.token(OTHER)
    fake.source.stored_version = "uid/2"
    assert await fake.token() == first
    second = await fake.token(FORCE_REFRESH)
    assert second != first
    assert await fake.token() == second
    assert await fake.token(OTHER) != other
    await fake.token(OTHER)
    assert fake.source.sent == 4
    assert [key.credential for key in fake.broker._timers] == ["uid/2", "uid/2"]
    assert len(fake.broker._tokens) == 2
    assert fake.broker.key_of(identity(), RESOURCE, "").credential == "uid/2"


async def test_a_refresh_during_a_rotation_leaves_nothing_of_the_old_version(fake: Bench) -> None:
    fake.source.stored_version = "uid/1"
    await fake.token()
    await fake.token()
    fake.source.stored_version = "uid/2"
    await asyncio.sleep(12.5 * 3600)
    assert [key.credential for key in fake.broker._timers] == ["uid/2"]
    assert len(fake.broker._tokens) == 1
    sent = fake.source.sent
    await fake.token()
    assert fake.source.sent == sent


async def test_requests_during_the_first_fetch_after_a_rotation_share_it(fake: Bench) -> None:
    fake.source.stored_version = "uid/1"
    fake.source.gate.clear()
    first = asyncio.create_task(fake.token())
    await settle()
    # The source knows the version by now, so the key that a request computes is another than the flight's.
    assert fake.source.version == "uid/1"
    second = asyncio.create_task(fake.token(pod="ns/b"))
    await settle()
    fake.source.gate.set()
    assert await first == await second
    assert fake.source.sent == 1


async def test_while_the_endpoint_is_down_a_token_of_the_old_version_is_still_served(fake: Bench) -> None:
    fake.source.stored_version = "uid/1"
    old = await fake.token()
    fake.source.version = "uid/2"
    fake.source.stored_version = "uid/2"
    fake.source.failures = [Unreachable("down"), Refused("the new secret is wrong", status=401)]
    assert await fake.token() == old
    assert fake.measures.stale_served == 1
    with pytest.raises(Refused):
        await fake.token()


async def test_the_policy_is_checked_first_for_each_request(fake: Bench) -> None:
    await fake.token()
    fake.source.forbidden = PolicyError("not here", "see --some-flag")
    with pytest.raises(PolicyError):
        await fake.token()
    assert fake.source.sent == 1
    fake.source.forbidden = None
    assert await fake.token() == "token-1"
