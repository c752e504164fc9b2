"""Changes during a token fetch: a decision from before the fetch is verified after it. Also with federated identities.

Excluded: the exchange.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nmi.identity.decide import SUSPENDED, DecisionPolicy
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import TokenRequest
from nmi.node.rtnetlink import Link, Route
from nmi.refusal import Reason, Refusal
from nmi.tokens.source import Issued, Workload
from podidentity.azure.imds import RawResponse
from podidentity.resources import Pod, Resource
from tests.support.nmi.identity.cluster import DEADLINE, Cluster
from tests.support.nmi.token_service_bench import ServiceBench, running_token_service
from tests.support.nmi.tokens.fakes import FakeSource
from tests.support.nmi_objects import ADDRESS, REQUEST, RESOURCE, assigned_identity, binding, exception, identity, pod
from tests.support.waiting import until

OTHER_ID = "c11e0000-0000-0000-0000-00000000000b"
FORCE_REFRESH = TokenRequest(RESOURCE, force_refresh=True)
APP = {"app": "web"}
AT_ONCE = DecisionPolicy(created_attempts=0)


async def while_fetching(
    bench: ServiceBench, change: Callable[[], object], request: TokenRequest = REQUEST, *, reported: bool = True
) -> Issued | RawResponse | Refusal:
    """Return the response to *request* if *change* occurs during its fetch, and is *reported* to the cluster cache."""
    entry = bench.cluster.owner(ADDRESS)
    bench.imds.gate.clear()
    bench.imds.arrived.clear()
    issuing = asyncio.create_task(bench.issue(request))
    await asyncio.wait_for(bench.imds.arrived.wait(), DEADLINE)
    generation = entry.record.generation
    change()
    await until(lambda: entry.record.generation != generation or not reported)
    bench.imds.gate.set()
    return await asyncio.wait_for(issuing, DEADLINE)


async def exempt(bench: ServiceBench) -> PodEntry:
    """Put a pod with an assigned identity under an exception."""
    bench.cluster.put(exception(labels=APP))
    entry = await bench.with_pod(labels=APP)
    await until(lambda: bool(entry.facts.exempt))
    return entry


def succeed(cluster: Cluster) -> None:
    cluster.delete_pod()
    cluster.put_pod(pod("successor", label="other"))


LOST_ADDRESS: dict[str, Callable[[Cluster], object]] = {
    "deleted": Cluster.delete_pod,
    "finished": lambda cluster: cluster.put_pod(pod(phase="Succeeded")),
    "moved": lambda cluster: cluster.put_pod(pod(addresses=("10.0.0.9",))),
    "successor": succeed,
    "rival": lambda cluster: cluster.deliver(pod("rival", uid="uid-2")),
}


async def test_an_identity_revoked_during_the_fetch_is_not_granted() -> None:
    async with running_token_service(policy=AT_ONCE) as bench:
        await bench.with_pod()
        response = await while_fetching(bench, lambda: bench.cluster.delete(assigned_identity()))
        assert isinstance(response, Refusal)
        assert response.reason is Reason.NO_MATCHING_IDENTITY


@pytest.mark.parametrize("deleted", [binding(), identity()], ids=["binding", "identity"])
async def test_in_managed_mode_an_object_deleted_during_the_fetch_is_not_granted_and_ready_responses_are_dropped(
    deleted: Resource,
) -> None:
    async with running_token_service(managed=True, policy=AT_ONCE) as bench:
        bench.cluster.put(binding(), identity())
        bench.cluster.put_pod(pod())
        await until(lambda: bool((entry := bench.cluster.at(ADDRESS)) and entry.assigned))
        before = await bench.issued()
        request = TokenRequest("https://storage.azure.com/")
        response = await while_fetching(bench, lambda: bench.cluster.delete(deleted), request)
        assert isinstance(response, Refusal)
        assert response.reason is Reason.NO_MATCHING_IDENTITY
        assert before.record.generation != before.generation


async def test_a_token_being_fetched_when_the_address_changes_its_owner_is_not_granted(
    bench: ServiceBench,
) -> None:
    bench.cluster.cluster_cache.network_listed([Link(7, "veth7"), Route(bytes((10, 0, 0, 1)), 32, 7, 0)])
    await bench.with_pod()
    gone = [Link(7, "veth7", gone=True)]
    assert await while_fetching(bench, lambda: bench.cluster.cluster_cache.network_changed(gone)) == SUSPENDED


@pytest.mark.parametrize("change", LOST_ADDRESS)
@pytest.mark.parametrize("is_exempt", [False, True], ids=["assigned", "exempt"])
async def test_a_pod_that_loses_its_address_during_the_fetch_gets_nothing(
    bench: ServiceBench, change: str, is_exempt: bool
) -> None:
    await (exempt(bench) if is_exempt else bench.with_pod())
    response = await while_fetching(bench, lambda: LOST_ADDRESS[change](bench.cluster))
    assert isinstance(response, Refusal)
    assert response.reason is Reason.UNKNOWN_ADDRESS


@pytest.mark.parametrize("end", ["exception", "label"])
async def test_a_pod_whose_exemption_ends_during_the_request_keeps_its_own_identity(
    bench: ServiceBench, end: str
) -> None:
    await exempt(bench)
    ends: dict[str, Callable[[], object]] = {
        "exception": lambda: bench.cluster.delete(exception()),
        "label": lambda: bench.cluster.put_pod(pod()),
    }
    response = await while_fetching(bench, ends[end])
    assert isinstance(response, Issued)
    assert response.identity == "ns/id"


async def test_a_grant_in_progress_is_not_given_to_a_pod_that_becomes_exempt(bench: ServiceBench) -> None:
    entry = await bench.with_pod(labels=APP)
    response = await while_fetching(bench, lambda: bench.cluster.put(exception(labels=APP)))
    assert isinstance(response, RawResponse)
    assert not entry.serves(bench.broker.key_of(assigned_identity().spec.azure_identity_ref, RESOURCE, ""))


async def test_an_identity_replaced_during_the_fetch_causes_a_new_decision(bench: ServiceBench) -> None:
    await bench.with_pod()

    def exchange() -> None:
        bench.cluster.delete(assigned_identity())
        bench.cluster.put(assigned_identity("second", client_id=OTHER_ID))

    response = await while_fetching(bench, exchange)
    assert isinstance(response, Issued)
    assert response.identity == "ns/second"
    assert response.token.client_id == OTHER_ID


async def test_a_change_that_keeps_the_grant_costs_no_second_fetch(bench: ServiceBench) -> None:
    entry = await bench.with_pod()
    response = await while_fetching(bench, lambda: bench.cluster.put(assigned_identity("zz")))
    assert isinstance(response, Issued)
    assert response.identity == "ns/id"
    assert response.generation == entry.record.generation
    assert len(bench.imds.calls) == 1


async def test_a_force_refreshed_token_replaces_the_ready_responses_with_the_old_one(bench: ServiceBench) -> None:
    entry = await bench.with_pod()
    bench.cluster.put_pod(pod("sharer", addresses=("10.0.0.2",)))
    bench.cluster.put(assigned_identity(pod_name="sharer"))
    bench.cluster.put_pod(pod("other", addresses=("10.0.0.3",)))
    bench.cluster.put(assigned_identity("second", pod_name="other", client_id=OTHER_ID))
    both = ("10.0.0.2", "10.0.0.3")
    await until(lambda: all((entry := bench.cluster.at(address)) and entry.assigned for address in both))
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


async def doubtful_while_fetching(bench: ServiceBench, ahead: float, **changes: Any) -> Issued | RawResponse | Refusal:
    """Return the response to a pod in deletion that becomes like *changes* during its fetch."""
    uid = bench.cluster.put_pod(pod())
    bench.cluster.deliver(pod(uid=uid, deleting=True))

    def change() -> None:
        bench.cluster.put_pod(pod(**changes))
        bench.cluster.clock.ahead += ahead

    return await while_fetching(bench, change, reported=False)


@pytest.mark.parametrize("case", ENDS_DURING_FETCH)
@pytest.mark.parametrize("exempt", [False, True])
async def test_a_pod_verified_by_a_read_is_read_again_after_a_long_fetch(case: str, exempt: bool) -> None:
    async with running_token_service(watching=False) as bench:
        if exempt:
            bench.cluster.put(exception(labels={"aadpodidbinding": "web"}))
        bench.cluster.put(assigned_identity())
        response = await doubtful_while_fetching(bench, 1.5, **ENDS_DURING_FETCH[case])
        assert isinstance(response, Refusal) is (case != "nothing")
        assert len(bench.imds.calls) == 1


async def test_a_short_fetch_costs_no_second_read() -> None:
    async with running_token_service(watching=False) as bench:
        bench.cluster.put(assigned_identity())
        assert isinstance(await doubtful_while_fetching(bench, 0.0), Issued)
        assert len([path for path in bench.cluster.reads() if path.endswith("/pods/web")]) == 1


async def bound(bench: ServiceBench) -> None:
    """A pod with an identity of type 3, and all its objects in the pod's namespace."""
    bench.cluster.api.store.create("serviceaccounts", {"metadata": {"name": "builder", "namespace": "ns"}})
    bench.cluster.put_pod(pod(service_account="builder"))
    bench.cluster.put(assigned_identity(type_=3, own_namespace="ns"))
    await bench.cluster.seen(lambda: bool((entry := bench.cluster.at(ADDRESS)) and entry.assigned))


async def test_the_pods_own_service_account_is_used() -> None:
    source = FakeSource(per_pod=True)
    async with running_token_service(sources={3: source}) as bench:
        await bound(bench)
        issued = await bench.issued()
        assert issued.cacheable
        entry = bench.cluster.owner(ADDRESS)
        assert source.workloads == [Workload("ns", "web", entry.uid, "builder")]


async def test_a_pod_deleted_during_the_exchange_gets_nothing_and_leaves_no_cache_entry() -> None:
    source = FakeSource(per_pod=True)
    source.gate.clear()
    async with running_token_service(sources={3: source}) as bench:
        await bound(bench)
        issuing = asyncio.create_task(bench.issue())
        await until(lambda: source.sent == 1)
        bench.cluster.delete_pod()
        response = await asyncio.wait_for(issuing, DEADLINE)
        assert isinstance(response, Refusal)
        assert response.reason is Reason.UNKNOWN_ADDRESS
        source.gate.set()
        await asyncio.sleep(0.05)
        assert len(bench.broker._tokens) == 0
        assert not bench.broker._flights


async def test_nothing_is_fetched_for_a_pod_that_disappears_while_a_read_verifies_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = FakeSource(per_pod=True)
    async with running_token_service(sources={3: source}) as bench:
        await bound(bench)
        bench.cluster.api.store.delete("pods", "web", "ns", grace_seconds=30)
        entry = bench.cluster.owner(ADDRESS)
        await until(lambda: entry.ending)
        there, requested, gate = entry.pod, asyncio.Event(), asyncio.Event()

        async def late_response(*_: str) -> Pod:
            requested.set()
            await gate.wait()
            return there

        monkeypatch.setattr(bench.cluster.cluster_cache._reads, "pod", late_response)
        issuing = asyncio.create_task(bench.issue())
        await asyncio.wait_for(requested.wait(), DEADLINE)
        bench.cluster.delete_pod()
        await until(lambda: entry.gone)
        gate.set()
        response = await asyncio.wait_for(issuing, DEADLINE)
        assert isinstance(response, Refusal)
        assert response.reason is Reason.UNKNOWN_ADDRESS
        assert source.workloads == []
        assert len(bench.broker._tokens) == 0


async def test_no_node_process_gets_a_federated_token_for_a_pod() -> None:
    source = FakeSource(per_pod=True)
    async with running_token_service(sources={3: source}) as bench:
        await bound(bench)
        response = await bench.issue_for()
        assert isinstance(response, Refusal)
        assert response.reason is Reason.POLICY
        assert source.workloads == []
        assert isinstance(await bench.issue(), Issued)
