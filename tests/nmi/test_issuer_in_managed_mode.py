"""Tokens in managed mode: held until binding and identity are there, gone with either. Excluded: joining the two."""

import asyncio
import time

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.identity.request import TokenRequest
from nmi.issuer import Issued
from nmi.refusal import Reason, Refusal
from podidentity.azure.imds import RawAnswer
from tests.nmi.fake_imds import Answer, error_body
from tests.nmi.identity.cluster import DEADLINE, until
from tests.nmi.identity.shapes import CLIENT_ID, RESOURCE, binding, identity, pod
from tests.nmi.issuing import ADDRESS, Office, running_office
from tests.nmi.tokens.fakes import FakeSource

POLICY = DecisionPolicy(force_namespaced=True)
ANOTHER = TokenRequest("https://storage.azure.com/")
BRIEF = DecisionPolicy(force_namespaced=True, max_hold_seconds=0.3)


async def bound(office: Office, type_: int = 0) -> None:
    """A pod with an identity, as the cluster cache has seen it."""
    office.cluster.put_binding(binding())
    office.cluster.put_identity(identity(type_=type_))
    office.cluster.put_pod(pod())
    await until(lambda: bool((entry := office.cluster.at(ADDRESS)) and entry.assigned))


async def test_a_request_is_held_until_binding_and_identity_exist() -> None:
    async with running_office(managed=True, policy=POLICY) as office:
        office.cluster.put_pod(pod())
        held = asyncio.create_task(office.issue())
        await until(lambda: office.issuer._measures.held == 1)
        office.cluster.put_binding(binding())
        office.cluster.put_identity(identity())
        issued = await asyncio.wait_for(held, DEADLINE)
        assert isinstance(issued, Issued)
        assert (issued.identity, issued.token.client_id, issued.cacheable) == ("ns/id", CLIENT_ID, True)


async def test_a_hold_ends_with_the_budget() -> None:
    async with running_office(managed=True, policy=BRIEF) as office:
        office.cluster.put_pod(pod())
        assert (await office.refused()).reason is Reason.NO_MATCHING_IDENTITY
        office.cluster.put_pod(pod(label=None))
        entry = office.cluster.at(ADDRESS)
        assert entry is not None
        await until(lambda: entry.facts.label == "")
        assert (await office.refused()).reason is Reason.NOTHING_ASSIGNED


@pytest.mark.parametrize("what", ["binding", "identity"])
async def test_an_object_deleted_during_the_fetch_is_not_granted_and_ready_answers_are_dropped(what: str) -> None:
    async with running_office(managed=True, policy=BRIEF) as office:
        await bound(office)
        before = await office.issued()
        office.imds.gate.clear()
        office.imds.arrived.clear()
        request = asyncio.create_task(office.issue(ANOTHER))
        await asyncio.wait_for(office.imds.arrived.wait(), DEADLINE)
        if what == "binding":
            office.cluster.delete_binding(binding())
        else:
            office.cluster.delete_identity(identity())
        await until(lambda: before.record.generation != before.generation)
        office.imds.gate.set()
        answer: Issued | RawAnswer | Refusal = await asyncio.wait_for(request, DEADLINE)
        assert isinstance(answer, Refusal)


async def test_an_identity_unknown_to_imds_is_waited_for() -> None:
    async with running_office(managed=True, policy=POLICY) as office:
        await bound(office)
        office.imds.script = [Answer(400, error_body("invalid_request", "Identity not found"))]
        assert (await office.issued()).identity == "ns/id"
        assert len(office.imds.calls) == 2


async def test_service_principals_are_served_too() -> None:
    source = FakeSource()
    async with running_office(managed=True, policy=POLICY, sources={1: source}) as office:
        await bound(office, type_=1)
        assert (await office.issued()).token.resource == RESOURCE
        assert len(source.requests) == 1


async def test_a_named_host_network_pod_has_the_identities_of_its_label() -> None:
    async with running_office(managed=True, policy=POLICY) as office:
        office.cluster.put_binding(binding())
        office.cluster.put_identity(identity())
        office.cluster.put_pod(pod(host_network=True))
        answer = await office.issue_for()
        assert isinstance(answer, Issued)
        assert answer.identity == "ns/id"


async def test_a_pod_without_a_binding_is_answered_within_two_seconds_on_both_paths() -> None:
    async with running_office(managed=True, policy=DecisionPolicy(force_namespaced=True, managed=True)) as office:
        office.cluster.put_pod(pod())
        began = time.monotonic()
        answers = await asyncio.gather(office.issue(), office.issue_for())
        assert time.monotonic() - began < 2.0
        for answer in answers:
            assert isinstance(answer, Refusal)
            assert answer.reason is Reason.NO_MATCHING_IDENTITY


async def test_a_binding_created_within_that_time_counts() -> None:
    async with running_office(managed=True, policy=DecisionPolicy(force_namespaced=True, managed=True)) as office:
        office.cluster.put_pod(pod())
        held = asyncio.create_task(office.issue())
        await until(lambda: office.issuer._measures.held == 1)
        office.cluster.put_binding(binding())
        office.cluster.put_identity(identity())
        assert isinstance(await asyncio.wait_for(held, DEADLINE), Issued)
