"""A pod whose address changed its owner by local evidence: no token until the owner is certain."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.identity.pods import PodEntry
from nmi.identity.stopped_pods import SUSPENDED
from nmi.identity.suspensions import VERIFY_SECONDS
from nmi.issuer import Issued
from nmi.node.rtnetlink import Link, Route
from nmi.refusal import Refusal
from podidentity.resources import ContainerState, ContainerStatus, Pod, Running
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.nmi.identity.cluster import DEADLINE, until
from tests.nmi.identity.shapes import assigned_identity, pod
from tests.nmi.issuing import ADDRESS, Office, running_office

BRIEF = DecisionPolicy(max_hold_seconds=0.2)
VETH = Link(7, "veth7")
ROUTE = Route(bytes((10, 0, 0, 1)), 32, 7, 0)
OTHER_CLIENT = "c11e0000-0000-0000-0000-00000000000b"


def evidence(office: Office) -> None:
    office.cluster.cluster_cache.network_changed([Link(7, "veth7", gone=True)])


async def attached(office: Office) -> PodEntry:
    """Return a served pod, at an address behind a separate interface."""
    office.cluster.cluster_cache.network_listed([VETH, ROUTE])
    entry = await office.with_pod()
    await office.issued()
    return entry


async def suspended(office: Office) -> PodEntry:
    entry = await attached(office)
    evidence(office)
    assert entry.suspended
    return entry


def started(moment: float, **changes: Any) -> Pod:
    """The pod with a container that was started then."""
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    made = pod(**changes)
    statuses = [ContainerStatus(state=ContainerState(running=Running(started_at=text)))]
    return msgspec.structs.replace(made, status=msgspec.structs.replace(made.status, container_statuses=statuses))


async def test_evidence_ends_ready_answers_immediately_and_requests_are_held_and_then_refused() -> None:
    async with running_office(policy=BRIEF) as office:
        entry = await attached(office)
        generation, calls = entry.record.generation, len(office.imds.calls)
        evidence(office)
        assert entry.record.suspended
        assert entry.record.generation > generation
        assert await office.refused() == SUSPENDED
        assert len(office.imds.calls) == calls


async def test_a_token_being_fetched_at_that_moment_is_not_granted() -> None:
    async with running_office(policy=BRIEF) as office:
        office.cluster.cluster_cache.network_listed([VETH, ROUTE])
        await office.with_pod()
        office.imds.gate.clear()
        request = asyncio.create_task(office.issue())
        await asyncio.wait_for(office.imds.arrived.wait(), DEADLINE)
        evidence(office)
        office.imds.gate.set()
        assert await asyncio.wait_for(request, DEADLINE) == SUSPENDED


async def test_without_the_api_server_a_suspended_pod_is_not_served_and_a_pod_without_evidence_is() -> None:
    async with running_office(policy=BRIEF, watching=False) as office:
        office.cluster.cluster_cache.network_listed([VETH, ROUTE])
        office.cluster.told(pod())
        office.cluster.told(pod("alive", uid="uid-2", addresses=("10.0.0.2",)))
        for name in ("web", "alive"):
            office.cluster.told(assigned_identity(pod_name=name), "assigned_identities")
        await office.cluster.api.stop()
        await office.issued()
        evidence(office)
        assert await office.refused() == SUSPENDED
        assert isinstance(await office.issue(peer="10.0.0.2"), Issued)


async def test_a_node_process_that_names_the_pod_is_served() -> None:
    async with running_office(policy=BRIEF) as office:
        await suspended(office)
        assert isinstance(await office.issue_for(), Issued)


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
    async with running_office(policy=BRIEF) as office:
        entry = await suspended(office)
        office.cluster.put_pod(NOT_PROVING[case])
        office.cluster.put_pod(pod(labels={"seen": "yes"}))
        await until(lambda: entry.labels.get("seen") == "yes")
        assert entry.suspended
        assert await office.refused() == SUSPENDED


async def test_a_container_started_since_lifts_it_and_answers_held_requests() -> None:
    async with running_office() as office:
        entry = await suspended(office)
        request = asyncio.create_task(office.issue())
        await until(lambda: office.held == 1)
        office.cluster.put_pod(started(time.time() + 2))
        assert isinstance(await asyncio.wait_for(request, DEADLINE), Issued)
        assert not entry.suspended
        assert not entry.record.suspended


async def test_an_init_container_started_since_lifts_it_too() -> None:
    async with running_office(policy=BRIEF) as office:
        entry = await suspended(office)
        made = started(time.time() + 2)
        status = msgspec.structs.replace(
            made.status, container_statuses=[ContainerStatus()], init_container_statuses=made.status.container_statuses
        )
        office.cluster.put_pod(msgspec.structs.replace(made, status=status))
        await until(lambda: not entry.suspended)


async def test_a_container_started_within_the_same_second_does_not_lift_it() -> None:
    async with running_office(policy=BRIEF, wall_clock=lambda: 1_800_000_000.5) as office:
        entry = await suspended(office)
        office.cluster.put_pod(started(1_800_000_000, labels={"seen": "yes"}))
        await until(lambda: entry.labels.get("seen") == "yes")
        assert entry.suspended
        office.cluster.put_pod(started(1_800_000_001))
        await until(lambda: not entry.suspended)


async def test_a_pod_that_moved_to_another_address_is_served_there_and_not_at_the_former_one() -> None:
    async with running_office(policy=BRIEF) as office:
        entry = await suspended(office)
        office.cluster.put_pod(pod(addresses=("10.0.0.9",)))
        await until(lambda: entry.addresses == ("10.0.0.9",))
        assert not entry.suspended
        assert isinstance(await office.issue(peer="10.0.0.9"), Issued)
        assert isinstance(await office.issue(), Refusal)


async def test_a_pod_reported_as_ended_stays_refused_when_the_suspension_would_have_been_lifted() -> None:
    async with running_office(policy=BRIEF) as office:
        entry = await suspended(office)
        office.cluster.put_pod(pod(terminated=True))
        await until(lambda: entry.terminated)
        assert entry.suspended
        assert isinstance(await office.refused(), Refusal)


# Another pod at the address.


async def test_another_pod_that_claims_the_address_gets_it_although_the_former_one_is_still_reported_alive() -> None:
    async with running_office() as office:
        await suspended(office)
        office.cluster.put_pod(started(time.time() + 2, name="successor", label="other"))
        office.cluster.put_assigned(
            assigned_identity("next", pod_name="successor", selector="other", client_id=OTHER_CLIENT)
        )
        await until(lambda: len(office.cluster.cluster_cache._addresses.candidates(ADDRESS)) == 2)
        answer = await office.issued()
        assert answer.pod == "ns/successor"
        assert office.imds.calls[-1].query["client_id"] == OTHER_CLIENT


async def test_a_suspended_pod_does_not_win_the_address_although_it_started_later() -> None:
    async with running_office(policy=BRIEF) as office:
        office.cluster.cluster_cache.network_listed([VETH, ROUTE])
        entry = await office.with_pod(started=60)
        evidence(office)
        office.cluster.put_pod(pod("rival", started=30))
        await until(lambda: len(office.cluster.cluster_cache._addresses.candidates(ADDRESS)) == 2)
        await office.cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
        assert office.cluster.at(ADDRESS) is None
        entry.lift()
        await office.cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
        assert office.cluster.at(ADDRESS) is entry, "the neighbour that passes"


@pytest.mark.parametrize("order", ["end first", "claimed and left"])
async def test_a_pod_whose_end_was_noticed_before_the_report_gets_nothing_and_its_successor_does(order: str) -> None:
    async with running_office(policy=BRIEF, watching=False) as office:
        office.cluster.told(assigned_identity(), "assigned_identities")
        office.cluster.cluster_cache.network_listed([VETH, ROUTE])
        before, after = time.time() - 60, time.time() + 2
        if order == "claimed and left":
            office.cluster.told(started(before))
            office.cluster.told(started(before, addresses=("10.0.0.9",)))
        evidence(office)
        office.cluster.told(started(before))
        entry = office.cluster.at(ADDRESS)
        assert entry is not None
        assert entry.record.suspended
        assert await office.refused() == SUSPENDED
        office.cluster.told_gone(pod())
        office.cluster.told(started(after, name="successor", uid="uid-2"))
        successor = office.cluster.at(ADDRESS)
        assert successor is not None
        assert not successor.suspended


# The verification.


async def verified(office: Office) -> None:
    """The time has come, and the reads have been answered or not."""
    before = len(office.cluster.reads())
    office.cluster.clock.ahead += VERIFY_SECONDS
    await until(lambda: len(office.cluster.reads()) > before)


async def test_there_is_no_read_before_the_verification_time_and_then_one_for_all_requests() -> None:
    async with running_office(policy=BRIEF) as office:
        await suspended(office)
        await asyncio.gather(*(office.issue() for _ in range(20)))
        assert office.cluster.reads() == []


async def test_a_read_that_shows_the_pod_alone_at_its_address_lifts_the_suspension() -> None:
    async with running_office() as office:
        entry = await suspended(office)
        request = asyncio.create_task(office.issue())
        await until(lambda: office.held == 1)
        await verified(office)
        assert isinstance(await asyncio.wait_for(request, DEADLINE), Issued)
        assert not entry.suspended
        assert (await office.issued()).cacheable


@pytest.mark.parametrize("change", ["gone", "namesake", "finished"])
async def test_a_read_that_does_not_find_the_pod_removes_it(change: str) -> None:
    async with running_office(policy=BRIEF, watching=False) as office:
        still_owns = office.cluster.cluster_cache.ownership_reads.still_owns
        uid = office.cluster.put_pod(pod(phase="Succeeded" if change == "finished" else "Running"))
        office.cluster.told(pod(uid="uid-former" if change == "namesake" else uid))
        if change == "gone":
            office.cluster.delete_pod()
        entry = office.cluster.at(ADDRESS)
        assert entry is not None
        assert not await still_owns(entry, ADDRESS)
        assert entry.gone


NOT_CONFIRMING: dict[str, dict[str, Any]] = {
    "another address": {"addresses": ("10.0.0.9",)},
    "all containers terminated": {"terminated": True},
    "sandbox down": {"sandbox": False},
}


@pytest.mark.parametrize("case", NOT_CONFIRMING)
async def test_a_read_that_does_not_show_it_running_there_lifts_nothing(case: str) -> None:
    async with running_office(policy=BRIEF, watching=False) as office:
        still_owns = office.cluster.cluster_cache.ownership_reads.still_owns
        office.cluster.cluster_cache.network_listed([VETH, ROUTE])
        uid = office.cluster.put_pod(pod(**NOT_CONFIRMING[case]))
        office.cluster.told(pod(uid=uid))
        entry = office.cluster.at(ADDRESS)
        assert entry is not None
        evidence(office)
        assert not await still_owns(entry, ADDRESS)
        office.cluster.put_pod(pod())
        assert await still_owns(entry, ADDRESS), "the neighbour that passes"


async def test_a_read_that_shows_another_live_pod_there_too_lifts_nothing() -> None:
    async with running_office(policy=BRIEF, watching=False) as office:
        still_owns = office.cluster.cluster_cache.ownership_reads.still_owns
        uid = office.cluster.put_pod(pod())
        office.cluster.told(pod(uid=uid))
        entry = office.cluster.at(ADDRESS)
        assert entry is not None
        office.cluster.put_pod(pod("rival"))
        assert not await still_owns(entry, ADDRESS)
        office.cluster.put_pod(pod(started=60))
        assert await still_owns(entry, ADDRESS), "it was started later than the rival"
        office.cluster.put_pod(pod("rival", started=90))
        assert not await still_owns(entry, ADDRESS)
        office.cluster.put_pod(pod("rival", phase="Succeeded"))
        assert await still_owns(entry, ADDRESS)


async def test_a_read_without_a_response_lifts_nothing_and_is_repeated() -> None:
    async with running_office(policy=BRIEF) as office:
        entry = await suspended(office)
        office.cluster.api.intercept = lambda _: StatusError(503, "ServiceUnavailable", "down")
        await verified(office)
        assert entry.suspended
        assert await office.refused() == SUSPENDED
        office.cluster.api.intercept = None
        await verified(office)
        await until(lambda: not entry.suspended)
