"""Tokens that a process of the node requests for a pod that it names. Excluded: its permission; finding the pod."""

import asyncio

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.issuer import Issued
from nmi.refusal import Reason, Refusal
from podidentity.resources import CREATED
from tests.nmi.identity.cluster import DEADLINE
from tests.nmi.issuer_bench import IssuerBench, running_issuer
from tests.nmi.tokens.fakes import FakeSource
from tests.support.nmi_objects import CLIENT_ID, REQUEST, RESOURCE, assigned_identity, by, exception, pod
from tests.support.waiting import until

OTHER_ID = "c11e0000-0000-0000-0000-00000000000b"
BRIEF = DecisionPolicy(max_hold_seconds=0.3)


async def issued(bench: IssuerBench, name: str = "web") -> Issued:
    answer = await bench.issue_for(name)
    assert isinstance(answer, Issued), answer
    return answer


async def refused(bench: IssuerBench, name: str = "web", request: TokenRequest = REQUEST) -> Refusal:
    answer = await bench.issue_for(name, request)
    assert isinstance(answer, Refusal), answer
    return answer


@pytest.mark.parametrize("host_network", [True, False], ids=["host-network", "own-network"])
async def test_the_identity_of_the_named_pod_is_used(host_network: bool) -> None:
    async with running_issuer() as bench:
        uid = bench.cluster.put_pod(pod(host_network=host_network))
        bench.cluster.put(assigned_identity())
        answer = await issued(bench)
        assert (answer.pod, answer.uid, answer.identity) == ("ns/web", uid, "ns/id")
        assert answer.token.client_id == CLIENT_ID
        assert not answer.cacheable


async def test_one_of_several_is_chosen_by_client_id() -> None:
    async with running_issuer() as bench:
        bench.cluster.put_pod(pod(host_network=True))
        bench.cluster.put(assigned_identity("a"))
        bench.cluster.put(assigned_identity("b", client_id=OTHER_ID))
        answer = await bench.issue_for(request=by(SelectorKind.CLIENT_ID, OTHER_ID))
        assert isinstance(answer, Issued)
        assert answer.identity == "ns/b"


async def test_a_request_is_held_like_any_other() -> None:
    async with running_issuer() as bench:
        bench.cluster.put_pod(pod(host_network=True))
        bench.cluster.put(assigned_identity(status=CREATED))
        pending = asyncio.create_task(bench.issue_for())
        await until(lambda: bench.issuer._measures.held == 1)
        bench.cluster.put(assigned_identity())
        assert isinstance(await asyncio.wait_for(pending, DEADLINE), Issued)


async def test_a_pod_deleted_during_the_request_is_refused() -> None:
    async with running_issuer() as bench:
        bench.cluster.put_pod(pod(host_network=True))
        pending = asyncio.create_task(bench.issue_for())
        await until(lambda: bench.issuer._measures.held == 1)
        bench.cluster.delete_pod()
        answer = await asyncio.wait_for(pending, DEADLINE)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.UNKNOWN_ADDRESS


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
        assert bench.imds.calls == []


async def test_an_unknown_type_is_refused_for_every_selector() -> None:
    async with running_issuer() as bench:
        bench.cluster.put_pod(pod(host_network=True))
        bench.cluster.put(assigned_identity(type_=4))
        assert (await refused(bench)).reason is Reason.POLICY


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
        await until(
            lambda: bool(
                list(bench.cluster.cluster_cache.entries())[0:1] and bench.cluster.cluster_cache.state()["exceptions"]
            )
        )
        assert (await refused(bench, request=request)).reason is Reason.NO_MATCHING_IDENTITY
        assert bench.imds.calls == []


async def test_an_answer_of_this_path_never_becomes_a_ready_answer_of_the_pod() -> None:
    async with running_issuer() as bench:
        entry = await bench.with_pod()
        await issued(bench)
        assert not entry.serves(bench.broker.key_of(assigned_identity().spec.azure_identity_ref, RESOURCE, "").lasting)
        assert (await bench.issued()).cacheable
