"""Changes during a token fetch: a decision from before the fetch is verified after it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.identity.request import TokenRequest
from nmi.issuer import Issued
from nmi.refusal import Reason, Refusal
from podidentity.azure.imds import RawAnswer
from tests.nmi.identity.cluster import DEADLINE
from tests.nmi.issuer_bench import IssuerBench, running_issuer
from tests.support.nmi_objects import ADDRESS, REQUEST, RESOURCE, assigned_identity, exception, pod
from tests.support.waiting import until

FORCE_REFRESH = TokenRequest(RESOURCE, force_refresh=True)
OTHER_ID = "c11e0000-0000-0000-0000-00000000000b"


async def while_fetching(
    bench: IssuerBench, change: Callable[[], None]
) -> "asyncio.Task[Issued | RawAnswer | Refusal]":
    """Send a request, and apply *change* during its fetch, after the cluster cache has seen it."""
    entry = bench.cluster.owner(ADDRESS)
    bench.imds.gate.clear()
    bench.imds.arrived.clear()
    request = asyncio.create_task(bench.issue())
    await asyncio.wait_for(bench.imds.arrived.wait(), DEADLINE)
    generation = entry.record.generation
    change()
    await until(lambda: entry.record.generation != generation)
    bench.imds.gate.set()
    return request


async def test_an_identity_revoked_during_the_fetch_is_not_granted() -> None:
    async with running_issuer(policy=DecisionPolicy(created_attempts=0)) as bench:
        await bench.with_pod()
        request = await while_fetching(bench, lambda: bench.cluster.delete(assigned_identity()))
        answer = await asyncio.wait_for(request, DEADLINE)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.NO_MATCHING_IDENTITY


@pytest.mark.parametrize("change", ["deleted", "finished", "moved"])
async def test_a_pod_that_is_deleted_during_the_fetch_is_refused(change: str) -> None:
    async with running_issuer() as bench:
        await bench.with_pod()
        changes: dict[str, Callable[[], object]] = {
            "deleted": bench.cluster.delete_pod,
            "finished": lambda: bench.cluster.put_pod(pod(phase="Succeeded")),
            "moved": lambda: bench.cluster.put_pod(pod(addresses=("10.0.0.9",))),
        }
        request = await while_fetching(bench, lambda: (changes[change](), None)[1])
        answer = await asyncio.wait_for(request, DEADLINE)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.UNKNOWN_ADDRESS


async def test_a_successor_at_the_address_does_not_get_its_predecessors_token() -> None:
    async with running_issuer() as bench:
        await bench.with_pod()

        def replace() -> None:
            bench.cluster.delete_pod()
            bench.cluster.put_pod(pod("successor", label="other"))

        request = await while_fetching(bench, replace)
        await until(lambda: bool((entry := bench.cluster.at(ADDRESS)) and entry.name == "successor"))
        answer = await asyncio.wait_for(request, DEADLINE)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.UNKNOWN_ADDRESS


async def test_a_second_pod_at_the_address_during_the_fetch_ends_the_request() -> None:
    async with running_issuer() as bench:
        await bench.with_pod()
        request = await while_fetching(bench, lambda: bench.cluster.deliver(pod("rival", uid="uid-2")))
        answer = await asyncio.wait_for(request, DEADLINE)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.UNKNOWN_ADDRESS


async def test_an_identity_replaced_during_the_fetch_causes_a_new_decision() -> None:
    async with running_issuer() as bench:
        await bench.with_pod()

        def exchange() -> None:
            bench.cluster.delete(assigned_identity())
            bench.cluster.put(assigned_identity("second", client_id=OTHER_ID))

        request = await while_fetching(bench, exchange)
        answer = await asyncio.wait_for(request, DEADLINE)
        assert isinstance(answer, Issued)
        assert answer.identity == "ns/second"
        assert answer.token.client_id == OTHER_ID


async def test_a_change_that_keeps_the_grant_costs_no_second_fetch() -> None:
    async with running_issuer() as bench:
        entry = await bench.with_pod()
        request = await while_fetching(bench, lambda: bench.cluster.put(assigned_identity("zz")))
        answer = await asyncio.wait_for(request, DEADLINE)
        assert isinstance(answer, Issued)
        assert answer.identity == "ns/id"
        assert answer.generation == entry.record.generation
        assert len(bench.imds.calls) == 1


async def test_a_force_refreshed_token_replaces_the_ready_answers_with_the_old_one() -> None:
    async with running_issuer() as bench:
        entry = await bench.with_pod()
        bench.cluster.put_pod(pod("sharer", addresses=("10.0.0.2",)))
        bench.cluster.put(assigned_identity(pod_name="sharer"))
        bench.cluster.put_pod(pod("other", addresses=("10.0.0.3",)))
        bench.cluster.put(assigned_identity("second", pod_name="other", client_id=OTHER_ID))
        both = ("10.0.0.2", "10.0.0.3")
        await until(lambda: all((it := bench.cluster.at(address)) and it.assigned for address in both))
        before = [await bench.issued(REQUEST, peer) for peer in (ADDRESS, "10.0.0.2", "10.0.0.3")]
        refreshed = await bench.issued(FORCE_REFRESH)
        assert refreshed.token.access_token != before[0].token.access_token
        assert refreshed.generation == entry.record.generation
        assert before[0].record.generation != before[0].generation
        assert before[1].record.generation != before[1].generation
        assert before[2].record.generation == before[2].generation
        assert (await bench.issued(REQUEST, "10.0.0.2")).token == refreshed.token
        assert len(bench.imds.calls) == 3


# Grants that depend on reads. No event arrives.

ENDS_DURING_FETCH: dict[str, dict[str, Any]] = {
    "terminated": {"terminated": True},
    "another address": {"addresses": ("10.0.0.9",)},
    "nothing": {},
}


async def doubtful_while_fetching(bench: IssuerBench, ahead: float, **changes: Any) -> "Issued | RawAnswer | Refusal":
    """Return the response to a pod in deletion that becomes like *changes* during its fetch."""
    uid = bench.cluster.put_pod(pod())
    bench.cluster.deliver(pod(uid=uid, deleting=True))
    bench.imds.gate.clear()
    request = asyncio.create_task(bench.issue())
    await asyncio.wait_for(bench.imds.arrived.wait(), DEADLINE)
    bench.cluster.put_pod(pod(**changes))
    bench.cluster.clock.ahead += ahead
    bench.imds.gate.set()
    return await asyncio.wait_for(request, DEADLINE)


@pytest.mark.parametrize("case", ENDS_DURING_FETCH)
@pytest.mark.parametrize("exempt", [False, True])
async def test_a_pod_verified_by_a_read_is_read_again_after_a_long_fetch(case: str, exempt: bool) -> None:
    async with running_issuer(watching=False) as bench:
        if exempt:
            bench.cluster.put(exception(labels={"aadpodidbinding": "web"}))
        bench.cluster.put(assigned_identity())
        answer = await doubtful_while_fetching(bench, 1.5, **ENDS_DURING_FETCH[case])
        assert isinstance(answer, Refusal) is (case != "nothing")
        assert len(bench.imds.calls) == 1


async def test_a_short_fetch_costs_no_second_read() -> None:
    async with running_issuer(watching=False) as bench:
        bench.cluster.put(assigned_identity())
        assert isinstance(await doubtful_while_fetching(bench, 0.0), Issued)
        assert len([path for path in bench.cluster.reads() if path.endswith("/pods/web")]) == 1
