"""Pods whose containers have all terminated, or whose sandbox is down: no token, regardless of a read."""

import asyncio
from typing import Any

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.identity.pods import PodEntry
from nmi.identity.stopped_pods import SANDBOX_DOWN, TERMINATED
from nmi.issuer import Issued
from nmi.refusal import Refusal
from tests.nmi.identity.cluster import DEADLINE
from tests.nmi.issuer_bench import IssuerBench, running_issuer
from tests.support.nmi_objects import ADDRESS, exception, pod
from tests.support.waiting import until
from tests.virtual_time import now

BRIEF = DecisionPolicy(max_hold_seconds=0.5)
"""Requests are not held for the whole HOLD_SECONDS, which the budget cuts."""
STOPPED: dict[str, tuple[dict[str, Any], Refusal]] = {
    "terminated": ({"terminated": True}, TERMINATED),
    "sandbox down": ({"sandbox": False}, SANDBOX_DOWN),
}


async def stopped(bench: IssuerBench, **state: Any) -> PodEntry:
    entry = await bench.with_pod()
    bench.cluster.put_pod(pod(**state))
    await bench.cluster.seen(lambda: entry.doubtful)
    return entry


@pytest.mark.parametrize("state", STOPPED)
async def test_a_stopped_pod_being_deleted_gets_nothing_although_a_read_still_shows_it(state: str) -> None:
    changes, refusal = STOPPED[state]
    async with running_issuer(policy=BRIEF) as bench:
        entry = await stopped(bench, **changes)
        bench.cluster.api.store.delete("pods", "web", "ns")  # 30 seconds of grace: the object stays, with its address
        await bench.cluster.seen(lambda: bench.cluster.cluster_cache.pods.get("ns", "web") is entry and entry.ending)
        assert ADDRESS in entry.addresses
        assert await bench.refused() == refusal
        assert bench.imds.calls == []


@pytest.mark.parametrize("state", STOPPED)
async def test_a_stopped_pod_that_is_not_deleted_gets_nothing_either_and_loses_its_ready_answers(state: str) -> None:
    changes, refusal = STOPPED[state]
    async with running_issuer(policy=BRIEF) as bench:
        await bench.with_pod()
        await bench.issued()
        entry = await stopped(bench, **changes)
        assert entry.record.suspended
        assert await bench.refused() == refusal
        assert bench.cluster.reads() == [], "no read can confirm it, so none is made"


@pytest.mark.parametrize("state", STOPPED)
async def test_a_state_that_only_the_read_of_a_pod_being_deleted_shows_counts_too(state: str) -> None:
    changes, refusal = STOPPED[state]
    async with running_issuer(watching=False) as bench:
        uid = bench.cluster.put_pod(pod(**changes))
        bench.cluster.deliver(pod(uid=uid, deleting=True))
        assert await bench.refused() == refusal
        assert len(bench.cluster.reads()) == 1


@pytest.mark.parametrize("state", STOPPED)
async def test_a_request_is_held_until_the_watch_reports_that_the_pod_runs(state: str) -> None:
    changes, _ = STOPPED[state]
    async with running_issuer() as bench:
        await stopped(bench, **changes)
        request = asyncio.create_task(bench.issue())
        await until(lambda: bench.held_requests == 1)
        bench.cluster.put_pod(pod(sandbox=True))
        assert isinstance(await asyncio.wait_for(request, DEADLINE), Issued)


async def test_a_request_is_held_for_five_seconds_at_most() -> None:
    async with running_issuer() as bench:
        await stopped(bench, terminated=True)
        began = now()
        assert await bench.refused() == TERMINATED
        assert now() - began == pytest.approx(5.0)


async def test_an_exempt_stopped_pod_gets_none_of_the_nodes_own_identities_either() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        bench.cluster.put(exception(labels={"aadpodidbinding": "web"}))
        entry = await bench.with_pod(assigned=False)
        await until(lambda: bool(entry.facts.exempt))
        bench.cluster.put_pod(pod(terminated=True))
        await bench.cluster.seen(lambda: entry.ending)
        assert await bench.refused() == TERMINATED
        assert bench.imds.calls == []


async def test_without_a_response_to_reads_a_stopped_pod_is_not_served() -> None:
    async with running_issuer(policy=BRIEF, watching=False) as bench:
        bench.cluster.deliver(pod(terminated=True, deleting=True))
        bench.cluster.api.cut()
        assert await bench.refused() == TERMINATED


async def test_a_pod_named_by_a_node_process_before_its_sandbox_is_ready_is_served() -> None:
    """The kubelet has a driver mount the pod's volumes first; the pod's address proves nothing here."""
    async with running_issuer() as bench:
        entry = await stopped(bench, sandbox=False)
        assert isinstance(await bench.issue_for(), Issued)
        bench.cluster.put_pod(pod(terminated=True))
        await bench.cluster.seen(lambda: entry.terminated)
        assert await bench.issue_for() == TERMINATED


async def test_a_pod_that_started_later_wins_the_address_over_a_pod_whose_sandbox_is_down() -> None:
    async with running_issuer(policy=DecisionPolicy(created_attempts=0), park_seconds=DEADLINE) as bench:
        await stopped(bench, sandbox=False)
        bench.cluster.put_pod(pod("rival", label="web", sandbox=True, started=60))
        await until(lambda: len(bench.cluster.cluster_cache._addresses.candidates(ADDRESS)) == 2)
        answer = await bench.issue()
        assert isinstance(answer, Refusal)  # the rival has no assigned identity, and gets no token of the other pod
        entry = bench.cluster.owner(ADDRESS)
        assert entry.name == "rival"
