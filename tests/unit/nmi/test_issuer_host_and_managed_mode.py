"""Tokens that a process of the node requests for a pod that it names, and tokens in managed mode.

Excluded: the process's permission; finding the pod.
"""

import asyncio

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.issuer import Issued
from nmi.refusal import Reason, Refusal
from podidentity.resources import CREATED
from tests.support.nmi.identity.cluster import DEADLINE
from tests.support.nmi.issuer_bench import IssuerBench, running_issuer
from tests.support.nmi.tokens.fakes import FakeSource
from tests.support.nmi_objects import (
    ADDRESS,
    CLIENT_ID,
    REQUEST,
    RESOURCE,
    assigned_identity,
    binding,
    by,
    exception,
    identity,
    pod,
)
from tests.support.waiting import until

OTHER_ID = "c11e0000-0000-0000-0000-00000000000b"


async def issued(bench: IssuerBench, name: str = "web", request: TokenRequest = REQUEST) -> Issued:
    answer = await bench.issue_for(name, request)
    assert isinstance(answer, Issued), answer
    return answer


async def refused(bench: IssuerBench, name: str = "web", request: TokenRequest = REQUEST) -> Refusal:
    answer = await bench.issue_for(name, request)
    assert isinstance(answer, Refusal), answer
    return answer


@pytest.mark.parametrize("host_network", [True, False], ids=["host-network", "own-network"])
async def test_the_identity_of_the_named_pod_is_used(bench: IssuerBench, host_network: bool) -> None:
    uid = bench.cluster.put_pod(pod(host_network=host_network))
    bench.cluster.put(assigned_identity())
    answer = await issued(bench)
    assert (answer.pod, answer.uid, answer.identity) == ("ns/web", uid, "ns/id")
    assert answer.token.client_id == CLIENT_ID
    assert not answer.cacheable
    bench.cluster.put(assigned_identity("another", client_id=OTHER_ID))
    answer = await issued(bench, request=by(SelectorKind.CLIENT_ID, OTHER_ID))
    assert answer.identity == "ns/another"


async def test_a_request_is_held_like_any_other(bench: IssuerBench) -> None:
    bench.cluster.put_pod(pod(host_network=True))
    bench.cluster.put_pod(pod("ends", host_network=True))
    bench.cluster.put(assigned_identity(status=CREATED))
    pending, ends = asyncio.create_task(issued(bench)), asyncio.create_task(refused(bench, "ends"))
    await until(lambda: bench.held_requests == 2)
    bench.cluster.put(assigned_identity())
    bench.cluster.delete_pod("ends")
    assert (await asyncio.wait_for(pending, DEADLINE)).identity == "ns/id"
    assert (await asyncio.wait_for(ends, DEADLINE)).reason is Reason.UNKNOWN_ADDRESS


async def test_a_pod_of_another_node_is_unknown() -> None:
    async with running_issuer(park_seconds=0.1) as bench:
        assert (await refused(bench, "absent")).reason is Reason.UNKNOWN_ADDRESS
        assert bench.imds.calls == []


async def test_only_types_that_the_policy_lists_are_served() -> None:
    policy = DecisionPolicy(host_token_types=frozenset((1,)))
    async with running_issuer(policy=policy, sources={1: FakeSource()}) as bench:
        bench.cluster.put_pod(pod(host_network=True))
        bench.cluster.put_pod(pod("other", host_network=True))
        bench.cluster.put(assigned_identity(type_=1))
        bench.cluster.put(assigned_identity(pod_name="other"))
        assert (await issued(bench)).identity == "ns/id"
        refusal = await refused(bench, "other")
        assert refusal.reason is Reason.POLICY
        assert "--host-token-types" in refusal.detail
        entry = bench.cluster.cluster_cache.pods.get("ns", "web")
        assert entry is not None
        bench.cluster.put(assigned_identity(type_=4))
        await until(lambda: [each.identity.spec.type for each in entry.assigned] == [4])
        assert (await refused(bench)).reason is Reason.POLICY
        assert bench.imds.calls == []


async def test_an_empty_list_of_types_disables_the_path_before_any_lookup() -> None:
    async with running_issuer(policy=DecisionPolicy(host_token_types=frozenset())) as bench:
        bench.cluster.put_pod(pod(host_network=True))
        assert (await refused(bench)).reason is Reason.POLICY
        assert (await refused(bench, "absent")).reason is Reason.POLICY
        assert bench.cluster.reads() == []


@pytest.mark.parametrize("selector", SelectorKind)
async def test_the_nodes_own_identities_are_never_returned_here(selector: SelectorKind) -> None:
    request = REQUEST if selector is SelectorKind.NONE else by(selector, CLIENT_ID)
    async with running_issuer() as bench:
        bench.cluster.put(exception(labels={"app": "web"}))
        bench.cluster.put_pod(pod(host_network=True, labels={"app": "web"}))
        bench.cluster.put(assigned_identity())
        cache = bench.cluster.cluster_cache
        await until(lambda: list(cache.entries()) and cache.state()["exceptions"])
        assert (await refused(bench, request=request)).reason is Reason.NO_MATCHING_IDENTITY
        assert bench.imds.calls == []


async def test_an_answer_of_this_path_never_becomes_a_ready_answer_of_the_pod(bench: IssuerBench) -> None:
    entry = await bench.with_pod()
    await issued(bench)
    assert not entry.serves(bench.broker.key_of(assigned_identity().spec.azure_identity_ref, RESOURCE, "").lasting)
    assert (await bench.issued()).cacheable


POLICY = DecisionPolicy(force_namespaced=True)
ANOTHER = TokenRequest("https://storage.azure.com/")
AT_ONCE = DecisionPolicy(force_namespaced=True, created_attempts=0)


async def bound(bench: IssuerBench, type_: int = 0) -> None:
    """A pod with an identity, as the cluster cache has seen it."""
    bench.cluster.put(binding())
    bench.cluster.put(identity(type_=type_))
    bench.cluster.put_pod(pod())
    await until(lambda: bool((entry := bench.cluster.at(ADDRESS)) and entry.assigned))


async def test_a_request_is_held_until_binding_and_identity_exist() -> None:
    async with running_issuer(managed=True, policy=POLICY) as bench:
        bench.cluster.put_pod(pod())
        pending = asyncio.create_task(bench.issue())
        await until(lambda: bench.issuer._measures.held == 1)
        bench.cluster.put(binding())
        bench.cluster.put(identity())
        issued = await asyncio.wait_for(pending, DEADLINE)
        assert isinstance(issued, Issued)
        assert (issued.identity, issued.token.client_id, issued.cacheable) == ("ns/id", CLIENT_ID, True)


@pytest.mark.parametrize("what", ["binding", "identity"])
async def test_an_object_deleted_during_the_fetch_is_not_granted_and_ready_answers_are_dropped(what: str) -> None:
    async with running_issuer(managed=True, policy=AT_ONCE) as bench:
        await bound(bench)
        before = await bench.issued()
        bench.imds.gate.clear()
        bench.imds.arrived.clear()
        request = asyncio.create_task(bench.issue(ANOTHER))
        await asyncio.wait_for(bench.imds.arrived.wait(), DEADLINE)
        if what == "binding":
            bench.cluster.delete(binding())
        else:
            bench.cluster.delete(identity())
        await until(lambda: before.record.generation != before.generation)
        bench.imds.gate.set()
        answer = await asyncio.wait_for(request, DEADLINE)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.NO_MATCHING_IDENTITY


@pytest.mark.parametrize("type_", [1, 3])
async def test_other_types_are_served_too(type_: int) -> None:
    source = FakeSource(per_pod=type_ == 3)
    async with running_issuer(managed=True, policy=POLICY, sources={type_: source}) as bench:
        await bound(bench, type_)
        assert (await bench.issued()).token.resource == RESOURCE
        assert len(source.requests) == 1


async def test_a_named_host_network_pod_has_the_identities_of_its_label() -> None:
    async with running_issuer(managed=True, policy=POLICY) as bench:
        bench.cluster.put(binding())
        bench.cluster.put(identity())
        bench.cluster.put_pod(pod(host_network=True))
        answer = await bench.issue_for()
        assert isinstance(answer, Issued)
        assert answer.identity == "ns/id"
