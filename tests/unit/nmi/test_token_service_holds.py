"""Requests that are held: their pod has no such identity yet, or is not known yet.

A hold counts from the pod's first request, also for a client that ends each attempt before. Then requests are refused
immediately until something changes for the pod.
"""

import asyncio
import sys
from typing import Final, NamedTuple

import pytest
from msgspec.structs import replace

from nmi.identity.decide import BRIEF_HOLD_SECONDS, NONE_ASSIGNED, SETTLED_SECONDS, DecisionPolicy, none_matches
from nmi.identity.lookup_wait import WAITERS_MAX
from nmi.identity.pod_entry import MISSING_MAX, SERVED_MAX, PodEntry
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Limit, Reason
from nmi.server.responses import refused
from nmi.tokens.source import Issued
from podidentity.resources import CREATED, AzureAssignedIdentity, Pod
from tests.support.nmi.token_service_bench import ServiceBench, refused_after, token_service_without_reads
from tests.support.nmi_objects import ADDRESS, CLIENT_ID, REQUEST, assigned_identity, binding, by, identity, pod
from tests.support.virtual_time import now, settle

HOLD: Final = 45.0
ATTEMPTS: Final = DecisionPolicy(created_attempts=2, interval_seconds=5.0)
"""The hold ends before the time limit of the whole request."""
UNASSIGNED: Final = by(SelectorKind.CLIENT_ID, "c11e0000-0000-0000-0000-00000000000b")
NONE_MATCHES: Final = none_matches(
    "ns", SelectorKind.CLIENT_ID, UNASSIGNED.selector_value, [assigned_identity().spec.azure_identity_ref]
)
MISSING: Final = {"any identity": (False, REQUEST), "a named identity": (True, UNASSIGNED)}
"""Whether the pod has an identity, and a request that it does not serve."""


def deliver(service: ServiceBench, *, assigned: bool = False) -> PodEntry:
    service.cluster.deliver(pod())
    if assigned:
        service.cluster.deliver(assigned_identity())
    return service.cluster.owner(ADDRESS)


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize(
    ("policy", "hold"),
    [(DecisionPolicy(), HOLD), (ATTEMPTS, 10.0), (DecisionPolicy(managed=True), BRIEF_HOLD_SECONDS)],
    ids=["max-hold", "attempts", "managed"],
)
async def test_repeats_get_the_same_response_immediately(policy: DecisionPolicy, hold: float, missing: str) -> None:
    assigned, request = MISSING[missing]
    async with token_service_without_reads(policy, managed=policy.managed) as service:
        if assigned and policy.managed:
            service.cluster.deliver(identity())
            service.cluster.deliver(binding())
        deliver(service, assigned=assigned and not policy.managed)
        await asyncio.sleep(SETTLED_SECONDS)
        first, seconds = await service.refused_after(request)
        held = BRIEF_HOLD_SECONDS if assigned else hold
        assert (first.reason, seconds) == (Reason.NO_MATCHING_IDENTITY, held)
        await asyncio.sleep(600.0)
        for _ in range(3):
            assert await service.refused_after(request) == (first, 0.0)
        assert service.held_requests == 0


@pytest.mark.parametrize(("managed", "hold"), [(False, HOLD), (True, BRIEF_HOLD_SECONDS)])
async def test_a_request_for_a_named_pod_is_held_as_long(managed: bool, hold: float) -> None:
    async with token_service_without_reads(managed=managed) as service:
        service.cluster.deliver(pod(host_network=True))
        assert await refused_after(service.issue_for()) == (NONE_ASSIGNED, hold)


@pytest.mark.parametrize("missing", MISSING)
async def test_a_repeat_may_be_refused_by_the_fast_lane_in_this_generation(missing: str) -> None:
    assigned, request = MISSING[missing]
    async with token_service_without_reads() as service:
        entry = deliver(service, assigned=assigned)
        assert (await service.refused_after(request))[0].generation is None, "it was held"
        assert (await service.refused_after(request))[0].generation == entry.record.generation


async def test_an_assignment_ends_the_immediate_responses(service: ServiceBench) -> None:
    deliver(service, assigned=True)
    await service.refused_after(UNASSIGNED)
    assert await service.refused_after(UNASSIGNED) == (NONE_MATCHES, 0.0)
    service.cluster.deliver(assigned_identity("other", client_id=UNASSIGNED.selector_value))
    response = await service.issue(UNASSIGNED)
    assert isinstance(response, Issued)
    assert response.identity == "ns/other"


async def test_a_change_of_the_label_or_the_assignment_begins_a_new_hold(service: ServiceBench) -> None:
    deliver(service)
    await service.refused_after()
    service.cluster.deliver(pod(label="other"))
    assert await service.refused_after() == (NONE_ASSIGNED, HOLD)
    service.cluster.deliver(assigned_identity(status=CREATED, selector="unrelated"))
    assert await service.refused_after() == (NONE_ASSIGNED, HOLD)
    service.cluster.deliver(pod(label="other"))
    assert await service.refused_after() == (NONE_ASSIGNED, 0.0), "nothing has changed"


async def test_an_identity_that_is_being_assigned_is_waited_for_again_after_each_response(
    service: ServiceBench,
) -> None:
    deliver(service)
    service.cluster.deliver(assigned_identity(status=CREATED))
    for _ in range(3):
        refusal, seconds = await service.refused_after()
        assert (refusal.reason, refusal.generation, seconds) == (Reason.STILL_ASSIGNING, None, HOLD)


async def test_a_hold_in_which_something_changed_begins_again(service: ServiceBench) -> None:
    deliver(service)
    pending = asyncio.create_task(service.refused_after())
    await asyncio.sleep(30.0)
    service.cluster.deliver(pod(label="other"))
    assert await pending == (NONE_ASSIGNED, HOLD), "a request waits no longer than that"
    assert await service.refused_after() == (NONE_ASSIGNED, 30.0), "and the hold ends 45 s after the change"
    assert await service.refused_after() == (NONE_ASSIGNED, 0.0)


async def test_each_missing_identity_has_its_own_hold(service: ServiceBench) -> None:
    deliver(service, assigned=True)
    await asyncio.sleep(SETTLED_SECONDS)
    assert await service.refused_within(0.5, UNASSIGNED) is None
    await asyncio.sleep(0.4)
    other = by(SelectorKind.RESOURCE_ID, "/of/another")
    pending = asyncio.create_task(service.refused_after(other))
    refusal, seconds = await service.refused_after(replace(UNASSIGNED, resource="https://another.audience"))
    assert refusal == NONE_MATCHES
    assert seconds == pytest.approx(BRIEF_HOLD_SECONDS - 0.9)
    same = replace(UNASSIGNED, selector_value=UNASSIGNED.selector_value.upper())
    assert await service.refused_after(same) == (NONE_MATCHES, 0.0)
    assert (await pending)[1] == BRIEF_HOLD_SECONDS


async def test_another_identity_is_waited_for_longer_soon_after_an_assignment(service: ServiceBench) -> None:
    """An identity of type 0 waits until a change of the host on Azure has ended, and others do not."""
    deliver(service, assigned=True)
    await asyncio.sleep(SETTLED_SECONDS - 1)
    assert await service.refused_after(UNASSIGNED) == (NONE_MATCHES, HOLD)


async def test_another_identity_is_waited_for_longer_while_one_is_being_assigned(service: ServiceBench) -> None:
    deliver(service, assigned=True)
    await asyncio.sleep(SETTLED_SECONDS)
    assert await service.refused_after(UNASSIGNED) == (NONE_MATCHES, BRIEF_HOLD_SECONDS)
    service.cluster.deliver(assigned_identity("other", status=CREATED))
    refusal, seconds = await service.refused_after(UNASSIGNED)
    assert (refusal.reason, seconds) == (Reason.NO_MATCHING_IDENTITY, HOLD)


async def test_a_pod_that_has_its_identity_is_served_in_spite_of_a_missing_one(service: ServiceBench) -> None:
    deliver(service, assigned=True)
    await service.refused_after(UNASSIGNED)
    assert isinstance(await service.issue(by(SelectorKind.CLIENT_ID, CLIENT_ID)), Issued)


async def test_fresh_tokens_of_pods_that_share_an_identity_begin_no_new_hold(service: ServiceBench) -> None:
    deliver(service, assigned=True)
    service.cluster.deliver(pod("second", uid="uid-2", addresses=("10.0.0.2",)))
    service.cluster.deliver(assigned_identity(pod_name="second"))
    await asyncio.sleep(SETTLED_SECONDS)
    await service.issue()  # from now on the pod has a ready response with the shared token
    pending = asyncio.create_task(service.refused_after(UNASSIGNED))
    before = service.cluster.owner(ADDRESS).record.generation
    for _ in range(4):
        await asyncio.sleep(BRIEF_HOLD_SECONDS / 5)
        await service.issue()
        await service.issue(TokenRequest(REQUEST.resource, force_refresh=True), peer="10.0.0.2")
    assert service.cluster.owner(ADDRESS).record.generation > before, "the replaced token is no longer sent"
    assert await pending == (NONE_MATCHES, BRIEF_HOLD_SECONDS)
    assert await service.refused_after(UNASSIGNED) == (NONE_MATCHES, 0.0)


def test_tokens_beyond_the_number_that_is_noted_begin_no_new_hold() -> None:
    entry = PodEntry(pod())
    assert entry.first_request("missing", 1.0) == 1.0
    before = entry.record.generation
    for number in range(SERVED_MAX + 1):
        entry.serve(number)
    assert entry.record.generation > before
    assert entry.first_request("missing", 9.0) == 1.0


async def test_a_pod_that_requests_ever_new_identities_uses_no_more_memory(service: ServiceBench) -> None:
    entry = deliver(service, assigned=True)
    await asyncio.sleep(SETTLED_SECONDS)
    for number in range(200):
        long = by(SelectorKind.CLIENT_ID, f"{number}-{'x' * 2000}")
        assert await service.refused_within(0.01, long) is None
    noted = entry._first_requests
    assert noted is not None
    assert len(noted) == MISSING_MAX
    used = sys.getsizeof(noted) + sum(sys.getsizeof(value) for pair in noted.items() for value in pair)
    assert used < 2_500
    await settle()
    refusal, seconds = await service.refused_after(long)
    assert refusal.sentence == NONE_MATCHES.sentence
    assert seconds == pytest.approx(BRIEF_HOLD_SECONDS, abs=0.1)
    service.cluster.deliver(pod(label=None))
    assert entry._first_requests is None, "a change ends the notes"


class Case(NamedTuple):
    """A pod without the identity that it requests."""

    hold: float
    reason: Reason
    shown: Pod | None = pod()
    assigned: AzureAssignedIdentity | None = None
    request: TokenRequest = REQUEST
    managed: bool = False


CASES: Final = {
    "no identity": Case(HOLD, Reason.NO_MATCHING_IDENTITY),
    "another client id": Case(
        BRIEF_HOLD_SECONDS,
        Reason.NO_MATCHING_IDENTITY,
        assigned=assigned_identity(),
        request=UNASSIGNED,
    ),
    "an unknown object id": Case(HOLD, Reason.UNKNOWN_OBJECT_ID, request=by(SelectorKind.OBJECT_ID, CLIENT_ID)),
    "still assigning": Case(HOLD, Reason.STILL_ASSIGNING, assigned=assigned_identity(status=CREATED)),
    "managed mode": Case(BRIEF_HOLD_SECONDS, Reason.NO_MATCHING_IDENTITY, managed=True),
    "a stopped pod": Case(5.0, Reason.SUSPENDED, shown=pod(terminated=True)),
    "an unknown address": Case(5.0, Reason.UNKNOWN_ADDRESS, shown=None),
    "an unknown address in managed mode": Case(5.0, Reason.UNKNOWN_ADDRESS, shown=None, managed=True),
}


async def refusal_times(case: Case, *, interval: float, time_limit: float, attempts: int) -> list[float]:
    """Return when the client receives a refusal, in seconds after its first attempt."""
    times = []
    async with token_service_without_reads(managed=case.managed) as service:
        if case.shown is not None:
            service.cluster.deliver(case.shown)
        if case.assigned is not None:
            service.cluster.deliver(case.assigned)
        if case.hold == BRIEF_HOLD_SECONDS:
            await asyncio.sleep(SETTLED_SECONDS)
        began = now()
        for number in range(attempts):
            await asyncio.sleep(began + number * interval - now())
            refusal = await service.refused_within(time_limit, case.request)
            if refusal is not None:
                assert refusal.reason is case.reason
                times.append(round(now() - began, 3))
    return times


@pytest.mark.parametrize("name", CASES)
async def test_attempts_that_are_shorter_than_the_hold_get_an_answer_at_its_end(name: str) -> None:
    case = CASES[name]
    interval = case.hold / 9  # 5 s with --max-hold=45s; eleven attempts take 55 s
    times = await refusal_times(case, interval=interval, time_limit=interval * 0.98, attempts=11)
    assert times, "the client never gets an answer"
    assert times[0] == pytest.approx(case.hold)


@pytest.mark.parametrize(("interval", "attempts"), [(0.36, 4), (0.6, 3), (4.0, 2)])
@pytest.mark.parametrize("name", CASES)
async def test_a_client_that_waits_between_its_attempts_gets_the_answer_with_the_next_one(
    name: str, interval: float, attempts: int
) -> None:
    case = CASES[name]
    times = await refusal_times(case, interval=case.hold * interval, time_limit=case.hold * 0.1, attempts=attempts)
    assert times == [pytest.approx(case.hold * interval * (attempts - 1))], "with the attempt after the end of the hold"


CROWD = "10.0.9.9"


async def test_a_request_that_must_not_wait_learns_when_to_try_again(service: ServiceBench) -> None:
    crowd = [asyncio.create_task(service.issue(peer=CROWD)) for _ in range(WAITERS_MAX)]
    await settle()
    refusal, seconds = await service.refused_after(peer=CROWD)
    assert seconds == 0.0
    assert refusal.limit is Limit.PARKED
    response = refused(refusal)
    assert (response.status, dict(response.headers)["Retry-After"]) == (503, "1")
    await asyncio.gather(*crowd)
    late, _ = await service.refused_after(peer="10.0.9.8")
    assert refused(late).status == 404, "no pod has arrived"
