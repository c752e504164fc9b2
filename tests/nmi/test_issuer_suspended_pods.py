"""A pod whose address changed its owner by local evidence: no token until the owner is certain."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from nmi.identity.container_starts import started_after
from nmi.identity.decide import DecisionPolicy
from nmi.identity.pods import PodEntry
from nmi.identity.stopped_pods import SUSPENDED
from nmi.identity.suspensions import VERIFY_SECONDS
from nmi.issuer import Issued
from nmi.node.rtnetlink import Link, Route
from nmi.refusal import Refusal
from podidentity.resources import ContainerState, ContainerStatus, Pod, Running
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.nmi.identity.cluster import DEADLINE
from tests.nmi.issuer_bench import IssuerBench, running_issuer
from tests.support.nmi_objects import ADDRESS, assigned_identity, pod
from tests.support.waiting import until

BRIEF = DecisionPolicy(max_hold_seconds=0.2)
VETH = Link(7, "veth7")
ROUTE = Route(bytes((10, 0, 0, 1)), 32, 7, 0)
OTHER_CLIENT = "c11e0000-0000-0000-0000-00000000000b"


def evidence(bench: IssuerBench) -> None:
    bench.cluster.cluster_cache.network_changed([Link(7, "veth7", gone=True)])


async def attached(bench: IssuerBench) -> PodEntry:
    """Return a served pod, at an address behind a separate interface."""
    bench.cluster.cluster_cache.network_listed([VETH, ROUTE])
    entry = await bench.with_pod()
    await bench.issued()
    return entry


async def suspended(bench: IssuerBench) -> PodEntry:
    entry = await attached(bench)
    evidence(bench)
    assert entry.suspended
    return entry


def started(moment: float, **changes: Any) -> Pod:
    """The pod with a container that was started then."""
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    made = pod(**changes)
    statuses = [ContainerStatus(state=ContainerState(running=Running(started_at=text)))]
    return msgspec.structs.replace(made, status=msgspec.structs.replace(made.status, container_statuses=statuses))


async def test_evidence_ends_ready_answers_immediately_and_requests_are_held_and_then_refused() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await attached(bench)
        generation, calls = entry.record.generation, len(bench.imds.calls)
        evidence(bench)
        assert entry.record.suspended
        assert entry.record.generation > generation
        assert await bench.refused() == SUSPENDED
        assert len(bench.imds.calls) == calls


async def test_a_token_being_fetched_at_that_moment_is_not_granted() -> None:
    async with running_issuer() as bench:
        bench.cluster.cluster_cache.network_listed([VETH, ROUTE])
        await bench.with_pod()
        bench.imds.gate.clear()
        request = asyncio.create_task(bench.issue())
        await asyncio.wait_for(bench.imds.arrived.wait(), DEADLINE)
        evidence(bench)
        bench.imds.gate.set()
        assert await asyncio.wait_for(request, DEADLINE) == SUSPENDED


async def test_without_the_api_server_a_suspended_pod_is_not_served_and_a_pod_without_evidence_is() -> None:
    async with running_issuer(policy=BRIEF, watching=False) as bench:
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


async def test_a_node_process_that_names_the_pod_is_served() -> None:
    async with running_issuer() as bench:
        await suspended(bench)
        assert isinstance(await bench.issue_for(), Issued)


# Watch events.

NOT_PROVING = {
    "another label": pod(labels={"app": "other"}),
    "a condition": pod(sandbox=True),
    "a container that was started before": started(time.time() - 60),
    "a time that is none": msgspec.structs.replace(
        pod(),
        status=msgspec.structs.replace(
            pod().status,
            container_statuses=[ContainerStatus(state=ContainerState(running=Running(started_at="soon")))],
        ),
    ),
}


@pytest.mark.parametrize("case", NOT_PROVING)
async def test_an_event_that_may_predate_the_evidence_does_not_lift_the_suspension(case: str) -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await suspended(bench)
        bench.cluster.put_pod(NOT_PROVING[case])
        bench.cluster.put_pod(pod(labels={"seen": "yes"}))
        await until(lambda: entry.labels.get("seen") == "yes")
        assert entry.suspended
        assert await bench.refused() == SUSPENDED


async def test_a_container_started_since_lifts_it_and_answers_held_requests() -> None:
    async with running_issuer() as bench:
        entry = await suspended(bench)
        request = asyncio.create_task(bench.issue())
        await until(lambda: bench.held_requests == 1)
        bench.cluster.put_pod(started(time.time() + 2))
        assert isinstance(await asyncio.wait_for(request, DEADLINE), Issued)
        assert not entry.suspended
        assert not entry.record.suspended


async def test_an_init_container_started_since_lifts_it_too() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await suspended(bench)
        made = started(time.time() + 2)
        status = msgspec.structs.replace(
            made.status, container_statuses=[ContainerStatus()], init_container_statuses=made.status.container_statuses
        )
        bench.cluster.put_pod(msgspec.structs.replace(made, status=status))
        await until(lambda: not entry.suspended)


async def test_a_container_started_within_the_same_second_does_not_lift_it() -> None:
    async with running_issuer(policy=BRIEF, wall_clock=lambda: 1_800_000_000.5) as bench:
        entry = await suspended(bench)
        bench.cluster.put_pod(started(1_800_000_000))
        await until(lambda: started_after(entry.pod, 1_799_999_999.0))
        assert entry.suspended
        bench.cluster.put_pod(started(1_800_000_001))
        await until(lambda: not entry.suspended)


async def test_a_pod_that_moved_to_another_address_is_served_there_and_not_at_the_former_one() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await suspended(bench)
        bench.cluster.put_pod(pod(addresses=("10.0.0.9",)))
        await until(lambda: entry.addresses == ("10.0.0.9",))
        assert not entry.suspended
        await bench.issued(peer="10.0.0.9")
        assert isinstance(await bench.issue(), Refusal)


async def test_a_pod_reported_as_ended_stays_refused_when_the_suspension_would_have_been_lifted() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await suspended(bench)
        bench.cluster.put_pod(pod(terminated=True))
        await until(lambda: entry.terminated)
        assert entry.suspended
        assert isinstance(await bench.refused(), Refusal)


# Another pod at the address.


async def test_another_pod_that_claims_the_address_gets_it_although_the_former_one_is_still_reported_alive() -> None:
    async with running_issuer() as bench:
        await suspended(bench)
        bench.cluster.put_pod(started(time.time() + 2, name="successor", label="other"))
        bench.cluster.put(assigned_identity("next", pod_name="successor", selector="other", client_id=OTHER_CLIENT))
        await until(lambda: len(bench.cluster.cluster_cache._addresses.candidates(ADDRESS)) == 2)
        answer = await bench.issued()
        assert answer.pod == "ns/successor"
        assert bench.imds.calls[-1].query["client_id"] == OTHER_CLIENT


async def test_a_suspended_pod_does_not_win_the_address_although_it_started_later() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        bench.cluster.cluster_cache.network_listed([VETH, ROUTE])
        entry = await bench.with_pod(started=60)
        evidence(bench)
        bench.cluster.put_pod(pod("rival", started=30))
        await until(lambda: len(bench.cluster.cluster_cache._addresses.candidates(ADDRESS)) == 2)
        await bench.cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
        assert bench.cluster.at(ADDRESS) is None
        entry.lift()
        await bench.cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
        assert bench.cluster.at(ADDRESS) is entry, "the neighbour that passes"


@pytest.mark.parametrize("order", ["end first", "claimed and left"])
async def test_a_pod_whose_end_was_noticed_before_the_report_gets_nothing_and_its_successor_does(order: str) -> None:
    async with running_issuer(policy=BRIEF, watching=False) as bench:
        bench.cluster.deliver(assigned_identity())
        bench.cluster.cluster_cache.network_listed([VETH, ROUTE])
        before, after = time.time() - 60, time.time() + 2
        if order == "claimed and left":
            bench.cluster.deliver(started(before))
            bench.cluster.deliver(started(before, addresses=("10.0.0.9",)))
        evidence(bench)
        bench.cluster.deliver(started(before))
        entry = bench.cluster.owner(ADDRESS)
        assert entry.record.suspended
        assert await bench.refused() == SUSPENDED
        bench.cluster.deliver_deletion(pod())
        bench.cluster.deliver(started(after, name="successor", uid="uid-2"))
        successor = bench.cluster.owner(ADDRESS)
        assert not successor.suspended


# The verification.


async def verified(bench: IssuerBench) -> None:
    """Advance the clock to the time of the reads, with or without their responses."""
    before = len(bench.cluster.reads())
    bench.cluster.clock.ahead += VERIFY_SECONDS
    await until(lambda: len(bench.cluster.reads()) > before)


async def test_there_is_no_read_before_the_verification_time_and_then_one_for_all_requests() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        await suspended(bench)
        await asyncio.gather(*(bench.issue() for _ in range(20)))
        assert bench.cluster.reads() == []


async def test_a_read_that_shows_the_pod_alone_at_its_address_lifts_the_suspension() -> None:
    async with running_issuer() as bench:
        entry = await suspended(bench)
        request = asyncio.create_task(bench.issue())
        await until(lambda: bench.held_requests == 1)
        await verified(bench)
        assert isinstance(await asyncio.wait_for(request, DEADLINE), Issued)
        assert not entry.suspended
        assert (await bench.issued()).cacheable


@pytest.mark.parametrize("change", ["gone", "namesake", "finished"])
async def test_a_read_that_does_not_find_the_pod_removes_it(change: str) -> None:
    async with running_issuer(policy=BRIEF, watching=False) as bench:
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
    async with running_issuer(policy=BRIEF, watching=False) as bench:
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
    async with running_issuer(policy=BRIEF, watching=False) as bench:
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


async def test_a_read_without_a_response_lifts_nothing_and_is_repeated() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await suspended(bench)
        bench.cluster.api.intercept = lambda _: StatusError(503, "ServiceUnavailable", "down")
        await verified(bench)
        assert entry.suspended
        assert await bench.refused() == SUSPENDED
        bench.cluster.api.intercept = None
        await verified(bench)
        await until(lambda: not entry.suspended)
