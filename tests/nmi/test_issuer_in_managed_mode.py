"""Tokens in managed mode: a request waits for the binding and the identity, and is refused after either is deleted."""

import asyncio

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.identity.request import TokenRequest
from nmi.issuer import Issued
from nmi.refusal import Reason, Refusal
from podidentity.azure.imds import RawAnswer
from tests.nmi.identity.cluster import DEADLINE
from tests.nmi.identity.shapes import ADDRESS, CLIENT_ID, RESOURCE, binding, identity, pod
from tests.nmi.imds import Reply, error_body
from tests.nmi.issuer_bench import IssuerBench, running_issuer
from tests.nmi.tokens.fakes import FakeSource
from tests.support.waiting import until

POLICY = DecisionPolicy(force_namespaced=True)
ANOTHER = TokenRequest("https://storage.azure.com/")
AT_ONCE = DecisionPolicy(force_namespaced=True, created_attempts=0)
BRIEF = DecisionPolicy(force_namespaced=True, max_hold_seconds=0.3)


async def bound(bench: IssuerBench, type_: int = 0) -> None:
    """A pod with an identity, as the cluster cache has seen it."""
    bench.cluster.put_binding(binding())
    bench.cluster.put_identity(identity(type_=type_))
    bench.cluster.put_pod(pod())
    await until(lambda: bool((entry := bench.cluster.at(ADDRESS)) and entry.assigned))


async def test_a_request_is_held_until_binding_and_identity_exist() -> None:
    async with running_issuer(managed=True, policy=POLICY) as bench:
        bench.cluster.put_pod(pod())
        pending = asyncio.create_task(bench.issue())
        await until(lambda: bench.issuer._measures.held == 1)
        bench.cluster.put_binding(binding())
        bench.cluster.put_identity(identity())
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
            bench.cluster.delete_binding(binding())
        else:
            bench.cluster.delete_identity(identity())
        await until(lambda: before.record.generation != before.generation)
        bench.imds.gate.set()
        answer: Issued | RawAnswer | Refusal = await asyncio.wait_for(request, DEADLINE)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.NO_MATCHING_IDENTITY


async def test_an_identity_unknown_to_imds_is_waited_for() -> None:
    async with running_issuer(managed=True, policy=POLICY) as bench:
        await bound(bench)
        bench.imds.script = [Reply(400, error_body("invalid_request", "Identity not found"))]
        assert (await bench.issued()).identity == "ns/id"
        assert len(bench.imds.calls) == 2


async def test_service_principals_are_served_too() -> None:
    source = FakeSource()
    async with running_issuer(managed=True, policy=POLICY, sources={1: source}) as bench:
        await bound(bench, type_=1)
        assert (await bench.issued()).token.resource == RESOURCE
        assert len(source.requests) == 1


async def test_a_named_host_network_pod_has_the_identities_of_its_label() -> None:
    async with running_issuer(managed=True, policy=POLICY) as bench:
        bench.cluster.put_binding(binding())
        bench.cluster.put_identity(identity())
        bench.cluster.put_pod(pod(host_network=True))
        answer = await bench.issue_for()
        assert isinstance(answer, Issued)
        assert answer.identity == "ns/id"
