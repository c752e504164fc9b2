"""Pods that may not own their address: stopped ones, and those whose address changed its owner by local evidence.

Neither gets a token, until the owner is certain.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final

import msgspec
import pytest

from nmi.identity.decide import SANDBOX_DOWN, SUSPENDED, TERMINATED, DecisionPolicy
from nmi.identity.pod_entry import PodEntry
from nmi.identity.suspensions import VERIFY_SECONDS
from nmi.node.rtnetlink import Link, Route
from nmi.refusal import Refusal
from nmi.tokens.source import Issued
from podidentity.resources import ContainerStatus
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.nmi.identity.cluster import DEADLINE
from tests.support.nmi.token_service_bench import ServiceBench, running_token_service
from tests.support.nmi_objects import ADDRESS, OTHER_ID, assigned_identity, exception, pod
from tests.support.objects import started_at
from tests.support.waiting import until

BRIEF = DecisionPolicy(max_hold_seconds=0.5)
"""Requests are not held for the whole HOLD_SECONDS, which the budget cuts."""
STOPPED = pytest.mark.parametrize(
    ("changes", "refusal"),
    [({"terminated": True}, TERMINATED), ({"sandbox": False}, SANDBOX_DOWN)],
    ids=["terminated", "sandbox down"],
)
SECOND: Final = 60
"""The wall clock shows a moment of this second after the fixed moment of `pod`."""
VETH = Link(7, "veth7")
ROUTE = Route(bytes((10, 0, 0, 1)), 32, 7, 0)


def running(policy: DecisionPolicy = BRIEF, **options: Any) -> AbstractAsyncContextManager[ServiceBench]:
    wall = datetime.fromisoformat(started_at(SECOND)).timestamp() + 0.5
    return running_token_service(policy=policy, wall_clock=lambda: wall, **options)


@pytest.fixture
async def brief() -> AsyncIterator[ServiceBench]:
    async with running() as bench:
        yield bench


async def stopped(bench: ServiceBench, **state: Any) -> PodEntry:
    entry = await bench.with_pod()
    bench.cluster.put_pod(pod(**state))
    await bench.cluster.seen(lambda: entry.doubtful)
    return entry


@STOPPED
async def test_a_stopped_pod_being_deleted_gets_nothing_although_a_read_still_shows_it(
    brief: ServiceBench, changes: dict[str, Any], refusal: Refusal
) -> None:
    entry = await stopped(brief, **changes)
    brief.cluster.api.store.delete("pods", "web", "ns")  # 30 seconds of grace: the object stays, with its address
    await brief.cluster.seen(lambda: brief.cluster.cluster_cache.pods.get("ns", "web") is entry and entry.ending)
    assert ADDRESS in entry.addresses
    assert await brief.refused() == refusal
    assert brief.imds.calls == []


@STOPPED
async def test_a_stopped_pod_that_is_not_deleted_gets_nothing_either_and_loses_its_ready_responses(
    brief: ServiceBench, changes: dict[str, Any], refusal: Refusal
) -> None:
    await brief.with_pod()
    await brief.issued()
    entry = await stopped(brief, **changes)
    assert entry.record.suspended
    assert await brief.refused() == refusal
    assert brief.cluster.reads() == [], "no read can confirm it, so none is made"


@STOPPED
async def test_a_state_that_only_the_read_of_a_pod_being_deleted_shows_counts_too(
    changes: dict[str, Any], refusal: Refusal
) -> None:
    async with running(watching=False) as bench:
        uid = bench.cluster.put_pod(pod(**changes))
        bench.cluster.deliver(pod(uid=uid, deleting=True))
        assert await bench.refused() == refusal
        assert len(bench.cluster.reads()) == 1


@STOPPED
async def test_a_request_is_held_until_the_watch_reports_that_the_pod_runs(
    changes: dict[str, Any], refusal: Refusal
) -> None:
    async with running(DecisionPolicy()) as bench:
        await stopped(bench, **changes)
        request = asyncio.create_task(bench.issue())
        await until(lambda: bench.held_requests == 1)
        bench.cluster.put_pod(pod(sandbox=True))
        assert isinstance(await asyncio.wait_for(request, DEADLINE), Issued)


async def test_an_exempt_stopped_pod_gets_none_of_the_nodes_own_identities_either(brief: ServiceBench) -> None:
    brief.cluster.put(exception(labels={"aadpodidbinding": "web"}))
    entry = await brief.with_pod(assigned=False)
    await until(lambda: bool(entry.facts.exempt))
    brief.cluster.put_pod(pod(terminated=True))
    await brief.cluster.seen(lambda: entry.ending)
    assert await brief.refused() == TERMINATED
    assert brief.imds.calls == []


async def test_without_a_response_to_reads_a_stopped_pod_is_not_served() -> None:
    async with running(watching=False) as bench:
        bench.cluster.deliver(pod(terminated=True, deleting=True))
        bench.cluster.api.cut()
        assert await bench.refused() == TERMINATED


async def test_a_pod_named_by_a_node_process_before_its_sandbox_is_ready_is_served(brief: ServiceBench) -> None:
    """The kubelet has a driver mount the pod's volumes first; the pod's address proves nothing here."""
    entry = await stopped(brief, sandbox=False)
    assert isinstance(await brief.issue_for(), Issued)
    brief.cluster.put_pod(pod(terminated=True))
    await brief.cluster.seen(lambda: entry.terminated)
    assert await brief.issue_for() == TERMINATED


async def test_a_pod_that_started_later_wins_the_address_over_a_pod_whose_sandbox_is_down() -> None:
    async with running(DecisionPolicy(created_attempts=0), park_seconds=DEADLINE) as bench:
        await stopped(bench, sandbox=False)
        bench.cluster.put_pod(pod("rival", sandbox=True, started=60))
        await until(lambda: len(bench.cluster.cluster_cache._addresses.candidates(ADDRESS)) == 2)
        assert isinstance(await bench.issue(), Refusal), "the rival gets no token of the other pod"
        assert bench.cluster.owner(ADDRESS).name == "rival"


# Evidence.


def evidence(bench: ServiceBench) -> None:
    bench.cluster.cluster_cache.network_changed([Link(7, "veth7", gone=True)])


async def attached(bench: ServiceBench) -> PodEntry:
    """Return a served pod, at an address behind a separate interface."""
    bench.cluster.cluster_cache.network_listed([VETH, ROUTE])
    entry = await bench.with_pod()
    await bench.issued()
    return entry


async def suspended(bench: ServiceBench) -> PodEntry:
    entry = await attached(bench)
    evidence(bench)
    assert entry.suspended
    return entry


async def test_evidence_ends_ready_responses_immediately_and_requests_are_held_and_then_refused(
    brief: ServiceBench,
) -> None:
    entry = await attached(brief)
    generation, calls = entry.record.generation, len(brief.imds.calls)
    evidence(brief)
    assert entry.record.suspended
    assert entry.record.generation > generation
    assert await brief.refused() == SUSPENDED
    assert len(brief.imds.calls) == calls


async def test_without_the_api_server_a_suspended_pod_is_not_served_and_a_pod_without_evidence_is() -> None:
    async with running(watching=False) as bench:
        bench.cluster.cluster_cache.network_listed([VETH, ROUTE])
        bench.cluster.deliver(pod())
        bench.cluster.deliver(pod("alive", uid="uid-2", addresses=("10.0.0.2",)))
        for name in ("web", "alive"):
            bench.cluster.deliver(assigned_identity(pod_name=name))
        bench.cluster.api.cut()
        await bench.issued()
        evidence(bench)
        assert await bench.refused() == SUSPENDED
        await bench.issued(peer="10.0.0.2")


async def test_a_node_process_that_names_a_suspended_pod_is_served(brief: ServiceBench) -> None:
    await suspended(brief)
    assert isinstance(await brief.issue_for(), Issued)


# Watch events after it.

NOT_PROVING: dict[str, dict[str, Any]] = {
    "another label": {},
    "a condition": {"sandbox": True},
    "a container that was started before": {"started": SECOND - 1},
    "a container that was started within the same second": {"started": SECOND},
    "the end of the pod": {"terminated": True},
}


@pytest.mark.parametrize("case", NOT_PROVING)
async def test_an_event_that_may_predate_the_evidence_does_not_lift_the_suspension(
    brief: ServiceBench, case: str
) -> None:
    entry = await suspended(brief)
    brief.cluster.put_pod(pod(**NOT_PROVING[case]))
    brief.cluster.put_pod(pod(labels={"seen": "yes"}, **NOT_PROVING[case]))
    await until(lambda: entry.labels.get("seen") == "yes")
    assert entry.suspended
    assert await brief.refused() == SUSPENDED


@pytest.mark.parametrize("init", [False, True])
async def test_a_container_started_since_lifts_it_and_answers_held_requests(init: bool) -> None:
    shown = pod(started=SECOND + 1)
    if init:
        statuses = shown.status.container_statuses
        status = msgspec.structs.replace(
            shown.status, container_statuses=[ContainerStatus()], init_container_statuses=statuses
        )
        shown = msgspec.structs.replace(shown, status=status)
    async with running(DecisionPolicy()) as bench:
        entry = await suspended(bench)
        request = asyncio.create_task(bench.issue())
        await until(lambda: bench.held_requests == 1)
        bench.cluster.put_pod(shown)
        assert isinstance(await asyncio.wait_for(request, DEADLINE), Issued)
        assert not entry.suspended
        assert not entry.record.suspended


async def test_a_pod_that_moved_to_another_address_is_served_there_and_not_at_the_former_one(
    brief: ServiceBench,
) -> None:
    entry = await suspended(brief)
    brief.cluster.put_pod(pod(addresses=("10.0.0.9",)))
    await until(lambda: entry.addresses == ("10.0.0.9",))
    assert not entry.suspended
    await brief.issued(peer="10.0.0.9")
    assert isinstance(await brief.issue(), Refusal)


# Another pod at the address.


async def test_another_pod_that_claims_the_address_gets_it_although_the_former_one_is_still_reported_alive() -> None:
    async with running(DecisionPolicy()) as bench:
        await suspended(bench)
        bench.cluster.put_pod(pod("successor", label="other", started=SECOND + 1))
        bench.cluster.put(assigned_identity("next", pod_name="successor", selector="other", client_id=OTHER_ID))
        await until(lambda: len(bench.cluster.cluster_cache._addresses.candidates(ADDRESS)) == 2)
        issued = await bench.issued()
        assert issued.pod == "ns/successor"
        assert bench.imds.calls[-1].client_id == OTHER_ID


async def test_a_suspended_pod_does_not_win_the_address_although_it_started_later(brief: ServiceBench) -> None:
    brief.cluster.cluster_cache.network_listed([VETH, ROUTE])
    entry = await brief.with_pod(started=60)
    evidence(brief)
    brief.cluster.put_pod(pod("rival", started=30))
    await until(lambda: len(brief.cluster.cluster_cache._addresses.candidates(ADDRESS)) == 2)
    await brief.cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
    assert brief.cluster.at(ADDRESS) is None
    entry.lift()
    await brief.cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
    assert brief.cluster.at(ADDRESS) is entry, "the neighbour that passes"


@pytest.mark.parametrize("order", ["end first", "claimed and left"])
async def test_a_pod_whose_end_was_noticed_before_the_report_gets_nothing_and_its_successor_does(order: str) -> None:
    async with running(watching=False) as bench:
        bench.cluster.deliver(assigned_identity())
        bench.cluster.cluster_cache.network_listed([VETH, ROUTE])
        ended = pod(started=SECOND - 1)
        if order == "claimed and left":
            bench.cluster.deliver(ended)
            bench.cluster.deliver(pod(started=SECOND - 1, addresses=("10.0.0.9",)))
        evidence(bench)
        bench.cluster.deliver(ended)
        assert bench.cluster.owner(ADDRESS).record.suspended
        assert await bench.refused() == SUSPENDED
        bench.cluster.deliver_deletion(pod())
        bench.cluster.deliver(pod("successor", started=SECOND + 1, uid="uid-2"))
        assert not bench.cluster.owner(ADDRESS).suspended


# The verification by reads.


async def verified(bench: ServiceBench) -> None:
    """Advance the clock to the time of the reads, with or without their responses."""
    before = len(bench.cluster.reads())
    bench.cluster.clock.ahead += VERIFY_SECONDS
    await until(lambda: len(bench.cluster.reads()) > before)


async def test_a_read_that_shows_the_pod_alone_at_its_address_lifts_the_suspension() -> None:
    async with running(DecisionPolicy()) as bench:
        entry = await suspended(bench)
        requests = [asyncio.create_task(bench.issue()) for _ in range(20)]
        await until(lambda: bench.held_requests == 20)
        assert bench.cluster.reads() == [], "not before the verification time"
        await verified(bench)
        for response in await asyncio.wait_for(asyncio.gather(*requests), DEADLINE):
            assert isinstance(response, Issued)
        assert not entry.suspended
        assert (await bench.issued()).cacheable


@pytest.mark.parametrize("change", ["gone", "namesake", "finished"])
async def test_a_read_that_does_not_find_the_pod_removes_it(change: str) -> None:
    async with running(watching=False) as bench:
        still_owns = bench.cluster.cluster_cache.ownership_reads.still_owns
        uid = bench.cluster.put_pod(pod(phase="Succeeded" if change == "finished" else "Running"))
        bench.cluster.deliver(pod(uid="uid-former" if change == "namesake" else uid))
        if change == "gone":
            bench.cluster.delete_pod()
        entry = bench.cluster.owner(ADDRESS)
        assert not await still_owns(entry, ADDRESS)
        assert entry.gone


NOT_CONFIRMING: dict[str, dict[str, Any]] = {
    "another address": {"addresses": ("10.0.0.9",)},
    "all containers terminated": {"terminated": True},
    "sandbox down": {"sandbox": False},
}


@pytest.mark.parametrize("case", NOT_CONFIRMING)
async def test_a_read_that_does_not_show_it_running_there_lifts_nothing(case: str) -> None:
    async with running(watching=False) as bench:
        still_owns = bench.cluster.cluster_cache.ownership_reads.still_owns
        bench.cluster.cluster_cache.network_listed([VETH, ROUTE])
        uid = bench.cluster.put_pod(pod(**NOT_CONFIRMING[case]))
        bench.cluster.deliver(pod(uid=uid))
        entry = bench.cluster.owner(ADDRESS)
        evidence(bench)
        assert not await still_owns(entry, ADDRESS)
        bench.cluster.put_pod(pod())
        assert await still_owns(entry, ADDRESS), "the neighbour that passes"


async def test_a_read_that_shows_another_live_pod_there_too_lifts_nothing() -> None:
    async with running(watching=False) as bench:
        still_owns = bench.cluster.cluster_cache.ownership_reads.still_owns
        uid = bench.cluster.put_pod(pod())
        bench.cluster.deliver(pod(uid=uid))
        entry = bench.cluster.owner(ADDRESS)
        bench.cluster.put_pod(pod("rival"))
        assert not await still_owns(entry, ADDRESS)
        bench.cluster.put_pod(pod(started=60))
        assert await still_owns(entry, ADDRESS), "it was started later than the rival"
        bench.cluster.put_pod(pod("rival", started=90))
        assert not await still_owns(entry, ADDRESS)
        bench.cluster.put_pod(pod("rival", phase="Succeeded"))
        assert await still_owns(entry, ADDRESS)


async def test_a_read_without_a_response_lifts_nothing_and_is_repeated(brief: ServiceBench) -> None:
    entry = await suspended(brief)
    brief.cluster.api.intercept = lambda _: StatusError(503, "ServiceUnavailable", "down")
    await verified(brief)
    assert entry.suspended
    assert await brief.refused() == SUSPENDED
    brief.cluster.api.intercept = None
    await verified(brief)
    await until(lambda: not entry.suspended)
