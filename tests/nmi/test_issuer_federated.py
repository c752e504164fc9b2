"""A pod and its federated identity at the issuer: the end of the pod, and other pods. Excluded: the exchange."""

import asyncio

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.issuer import Issued
from nmi.refusal import Reason, Refusal
from nmi.tokens.source import Workload
from podidentity.resources import Pod
from tests.nmi.identity.cluster import DEADLINE
from tests.nmi.issuer_bench import IssuerBench, running_issuer
from tests.nmi.tokens.fakes import FakeSource
from tests.support.nmi_objects import ADDRESS, assigned_identity, binding, identity, pod
from tests.support.waiting import until


def source_per_pod() -> FakeSource:
    return FakeSource(per_pod=True)


async def bound(bench: IssuerBench, namespace: str = "ns") -> None:
    """A pod with an identity of type 3; the object that assigns it is in *namespace*, all else in the pod's."""
    bench.cluster.api.store.create("serviceaccounts", {"metadata": {"name": "builder", "namespace": "ns"}})
    bench.cluster.put_pod(pod(service_account="builder"))
    bench.cluster.put(assigned_identity(type_=3, own_namespace=namespace, namespace="ns"))
    await bench.cluster.seen(lambda: bool((it := bench.cluster.at(ADDRESS)) and it.assigned))


async def test_the_pods_own_service_account_is_used() -> None:
    source = source_per_pod()
    async with running_issuer(sources={3: source}) as bench:
        await bound(bench)
        issued = await bench.issued()
        assert issued.cacheable
        entry = bench.cluster.owner(ADDRESS)
        assert source.workloads == [Workload("ns", "web", entry.uid, "builder")]


async def test_a_request_with_objects_outside_the_pods_namespace_is_refused_without_a_call() -> None:
    source = source_per_pod()
    async with running_issuer(sources={3: source}, policy=DecisionPolicy(max_hold_seconds=0.2)) as bench:
        await bound(bench, "default")
        assert (await bench.refused()).reason is Reason.NO_MATCHING_IDENTITY
        assert source.workloads == []


async def test_a_pod_deleted_during_the_exchange_gets_nothing_and_leaves_no_cache_entry() -> None:
    source = source_per_pod()
    source.gate.clear()
    async with running_issuer(sources={3: source}) as bench:
        await bound(bench)
        asking = asyncio.create_task(bench.issue())
        await until(lambda: source.sent == 1)
        bench.cluster.delete_pod()
        answer = await asyncio.wait_for(asking, DEADLINE)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.UNKNOWN_ADDRESS
        source.gate.set()
        await asyncio.sleep(0.05)
        assert len(bench.broker._tokens) == 0
        assert not bench.broker._flights


async def test_nothing_is_fetched_for_a_pod_that_disappears_while_a_read_verifies_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = source_per_pod()
    async with running_issuer(sources={3: source}) as bench:
        await bound(bench)
        bench.cluster.api.store.delete("pods", "web", "ns", grace_seconds=30)
        entry = bench.cluster.owner(ADDRESS)
        await until(lambda: entry.ending)
        there, asked, gate = entry.pod, asyncio.Event(), asyncio.Event()

        async def answered_late(*_: str) -> Pod:
            asked.set()
            await gate.wait()
            return there

        monkeypatch.setattr(bench.cluster.cluster_cache._reads, "pod", answered_late)
        asking = asyncio.create_task(bench.issue())
        await asyncio.wait_for(asked.wait(), DEADLINE)
        bench.cluster.delete_pod()
        await until(lambda: entry.gone)
        gate.set()
        answer = await asyncio.wait_for(asking, DEADLINE)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.UNKNOWN_ADDRESS
        assert source.workloads == []
        assert len(bench.broker._tokens) == 0


async def test_the_token_is_dropped_with_the_pod_and_a_successor_fetches_its_own() -> None:
    source = source_per_pod()
    async with running_issuer(sources={3: source}) as bench:
        await bound(bench)
        first = await bench.issued()
        bench.cluster.delete_pod()
        await until(lambda: bench.cluster.at(ADDRESS) is None)
        assert len(bench.broker._tokens) == 0
        bench.cluster.put_pod(pod(uid="uid-2", service_account="builder"))
        await until(lambda: (it := bench.cluster.at(ADDRESS)) is not None and bool(it.assigned))
        second = await bench.issued()
        assert (first.token.access_token, second.token.access_token) == ("token-1", "token-2")
        assert len({each.uid for each in source.workloads if each}) == 2


async def test_no_node_process_gets_a_federated_token_for_a_pod() -> None:
    source = source_per_pod()
    async with running_issuer(sources={3: source}) as bench:
        await bound(bench)
        answer = await bench.issue_for()
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.POLICY
        assert source.workloads == []
        assert isinstance(await bench.issue(), Issued)


async def test_in_managed_mode_the_binding_suffices() -> None:
    source = source_per_pod()
    async with running_issuer(sources={3: source}, managed=True, policy=DecisionPolicy(force_namespaced=True)) as bench:
        bench.cluster.put_pod(pod())
        bench.cluster.put(identity(type_=3))
        bench.cluster.put(binding())
        await until(lambda: bool((it := bench.cluster.at(ADDRESS)) and it.assigned))
        assert (await bench.issued()).token.access_token == "token-1"
