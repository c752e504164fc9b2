"""Quarantined identities: which ones Azure refuses, found in few updates, and the retries.

MIC attaches the others, reports the refused ones, retries them with increasing pauses, and never in the same update as
identities that are needed.
"""

import asyncio
from dataclasses import replace

import pytest

from mic.azure.errors import AzureError, BadIdentities, Missing, Refused
from mic.azure.identities import Attached, HostIdentities
from mic.azure.memory import QUARANTINE_MOST_SECONDS, HostMemory
from mic.decisions.documents import MESSAGE_MAX
from mic.reconciliation.events import EVENTS_PER_IDENTITY_MAX
from mic.reconciliation.host_updater import REFUSED
from mic.reconciliation.work_queue import PassResult
from tests.support.mic.world import VM, MicWorld, Refusal, refused_for
from tests.support.objects import identity_id, pod
from tests.support.virtual_time import now

NAMES = tuple(f"id{number:02d}" for number in range(20))


def named_first(bad: frozenset[str]) -> AzureError:
    """The error of an operation: Azure stops at the first refused identity, and the poll has the status 200."""
    error = BadIdentities("identity operation", status=200, code="FailedIdentityOperation")
    error.ids = frozenset([min(bad)])
    return error


def unnamed(_bad: frozenset[str]) -> AzureError:
    return Refused("no", status=400, code="InvalidParameter")


def group_missing(_bad: frozenset[str]) -> AzureError:
    return Missing("Resource group 'gone' could not be found.", status=404, code="ResourceGroupNotFound")


async def come_to_rest(world: MicWorld) -> float:
    """Run passes as the queue does until one returns a pause of seconds, and return this pause."""
    for _ in range(40):
        done = await world.reconcile()
        if done.again_after is None or done.again_after > 1.0:
            return done.again_after or 0.0
        await asyncio.sleep(done.again_after)
    raise AssertionError("forty rounds did not settle it")


@pytest.mark.parametrize("culprit", [NAMES[0], NAMES[7], NAMES[19]])
@pytest.mark.parametrize(("refusal", "updates"), [(refused_for, 2), (named_first, 2), (unnamed, 8), (group_missing, 8)])
async def test_one_refused_identity_among_twenty_is_found_immediately(
    world: MicWorld, culprit: str, refusal: Refusal, updates: int
) -> None:
    world.bind(*NAMES)
    world.refuse(culprit, refusal=refusal)
    began = now()
    pause = await come_to_rest(world)
    assert now() - began < 2.0
    assert len(world.changes) <= updates
    waiting = {name for name, status in world.statuses().items() if status == "Created"}
    assert waiting == {f"{culprit}-default-{culprit}"}
    assert 25.0 < pause <= 30.0


@pytest.mark.parametrize(
    ("refusal", "updates"), [(refused_for, 1), (named_first, 20), (unnamed, 30), (group_missing, 30)]
)
async def test_if_all_are_refused_each_is_tried_about_once(world: MicWorld, refusal: Refusal, updates: int) -> None:
    world.bind(*NAMES)
    world.refuse(*NAMES, refusal=refusal)
    await come_to_rest(world)
    assert len(world.changes) <= updates
    assert set(world.statuses().values()) == {"Created"}
    before = len(world.changes)
    await asyncio.sleep(31.0)
    await come_to_rest(world)
    assert len(world.changes) - before <= len(NAMES), "known to be bad, so not halved again"


@pytest.mark.parametrize("refusal", [refused_for, unnamed])
@pytest.mark.parametrize("cause", ["its time has come", "it was changed"])
async def test_a_retry_of_a_refused_identity_is_a_separate_update(
    world: MicWorld, refusal: Refusal, cause: str
) -> None:
    world.bind("bad", "one")
    world.refuse("bad", refusal=refusal)
    await come_to_rest(world)
    world.bind("two")
    world.changes.clear()
    if cause == "it was changed":
        assert world.host_reconciler.retry_identity(identity_id("bad").lower()) == [VM]
    else:
        await asyncio.sleep(40.0)
    await come_to_rest(world)
    assert [change.adds for change in world.changes] == [(identity_id("two"),), (identity_id("bad"),)]
    assert sorted(world.statuses().values()) == ["Assigned", "Assigned", "Created"]
    assert world.host_reconciler.quarantined() == 1


async def test_a_detach_does_not_wait_for_a_retry(world: MicWorld) -> None:
    world.bind("bad", "one")
    world.refuse("bad", refusal=unnamed)
    await come_to_rest(world)
    world.unbind("one")
    await come_to_rest(world)
    assert world.hosts.state.attached == {}
    assert list(world.statuses()) == ["bad-default-bad"]


async def test_binding_pod_and_object_state_the_refusal(world: MicWorld) -> None:
    world.bind("bad")
    world.refuse("bad")
    await come_to_rest(world)
    assert await world.warned() == ["AzureAssignedIdentity bad-default-bad", "AzureIdentityBinding bad", "Pod bad"]
    events = await world.warnings()
    (about_pod,) = [event["involvedObject"] for event in events if event["involvedObject"]["kind"] == "Pod"]
    assert about_pod["uid"] == pod("bad").metadata.uid, "kubectl describe looks for the uid"
    assert all("Managed Identity Operator" in event["message"] for event in events)
    world.add(pod("later", label="bad"))
    await world.reconcile()
    assert "Pod later" in await world.warned()
    assert "Managed Identity Operator" in world.message("later-default-bad")
    assert len(world.changes) == 1


@pytest.mark.parametrize("refusal", [refused_for, named_first, unnamed])
async def test_the_log_names_each_refused_identity_once(
    world: MicWorld, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    world.refuse("id01", "id02", refusal=refusal)
    for name in NAMES[:4]:
        world.bind(name)
    await come_to_rest(world)
    records = [record for record in caplog.records if record.getMessage() == REFUSED]
    assert sorted(record.__dict__["identity"].lower() for record in records) == [
        identity_id(name).lower() for name in ("id01", "id02")
    ]


async def test_of_many_pods_a_few_get_an_event_and_all_objects_state_it(world: MicWorld) -> None:
    world.bind("bad")
    for number in range(40):
        world.add(pod(f"p{number}", label="bad"))
    world.refuse("bad")
    await come_to_rest(world)
    warned = await world.warned()
    assert len([subject for subject in warned if subject.startswith("Pod ")]) == EVENTS_PER_IDENTITY_MAX
    assert all("Managed Identity Operator" in world.message(name) for name in world.statuses())


@pytest.mark.parametrize("refusal", [refused_for, named_first, unnamed])
async def test_an_identity_that_cannot_be_detached_blocks_no_other(world: MicWorld, refusal: Refusal) -> None:
    world.bind("stuck", "goes")
    await come_to_rest(world)
    world.refuse("stuck", refusal=refusal)
    world.unbind("stuck", "goes")
    world.bind("comes")
    pause = await come_to_rest(world)
    assert {key.rpartition("/")[2] for key in world.hosts.state.attached} == {"stuck", "comes"}
    assert world.statuses() == {"comes-default-comes": "Assigned", "stuck-default-stuck": "Assigned"}
    assert 25.0 < pause <= 30.0
    before = len(world.changes)
    world.bind("later")
    await come_to_rest(world)
    assert [change.removes for change in world.changes[before:]] == [()]
    world.hosts.refused.clear()
    await asyncio.sleep(31.0)
    await come_to_rest(world)
    assert {key.rpartition("/")[2] for key in world.hosts.state.attached} == {"comes", "later"}
    assert world.host_reconciler.quarantined() == 0


async def test_a_refusal_that_names_an_attached_identity_blames_no_new_one(world: MicWorld) -> None:
    world.bind("dead")
    await come_to_rest(world)
    world.bind("one", "two")
    error = named_first(frozenset([identity_id("dead").lower()]))
    world.fail("update", error)
    done = await world.reconcile()
    assert done.again_after == pytest.approx(0.5)
    assert world.host_reconciler.quarantined() == 0
    assert f"while {identity_id('dead').lower()} is on it" in world.message("one-default-one")
    assert {"Pod one", "Pod two"} <= set(await world.warned())
    await asyncio.sleep(0.5)
    await come_to_rest(world)
    assert [len(change.adds) for change in world.changes] == [1, 2, 2]
    assert world.message("one-default-one") == ""
    assert set(world.statuses().values()) == {"Assigned"}


def test_an_identity_that_is_no_longer_tried_is_forgotten() -> None:
    now = [0.0]
    memory = HostMemory(lambda: now[0])
    memory.quarantine("old", "no")
    now[0] = 29.0 + QUARANTINE_MOST_SECONDS
    memory.quarantine("new", "no")
    assert memory.was_refused("old")
    now[0] = 31.0 + QUARANTINE_MOST_SECONDS
    memory.quarantine("new", "no")
    assert not memory.was_refused("old")
    assert memory.was_refused("new")


async def test_a_read_that_finds_it_attached_ends_the_quarantine(world: MicWorld) -> None:
    world.bind("bad")
    world.refuse("bad")
    await come_to_rest(world)
    attached = {identity_id("bad").lower(): Attached(identity_id("bad"))}
    there = HostIdentities(type="UserAssigned", attached=attached, etag='"2"')
    world.hosts.state = replace(there, provisioning_state="Updating")
    await world.look()
    assert world.host_reconciler.quarantined() == 1
    assert world.statuses() == {"bad-default-bad": "Created"}, "the operation may fail as ours did"
    world.hosts.state = there
    await world.reconcile()
    assert world.host_reconciler.quarantined() == 0
    assert world.statuses() == {"bad-default-bad": "Assigned"}
    assert world.message("bad-default-bad") == ""


def bad(name: str) -> AzureError:
    return refused_for(frozenset({identity_id(name).lower()}))


async def test_a_named_identity_is_left_out_immediately_and_retried_after_half_a_minute(world: MicWorld) -> None:
    world.bind("one", "two", "three")
    world.fail("update", bad("two"))
    began = now()
    done = await world.reconcile()
    assert [len(change.adds) for change in world.changes] == [3, 2]
    assert now() - began == 1.0
    assert world.statuses()["two-default-two"] == "Created"
    assert "Managed Identity Operator" in world.message("two-default-two")
    assert world.message("two-default-two").endswith(
        "(LinkedAuthorizationFailed); quarantined: MIC tries again within 2 minutes"
    )
    assert done.again_after == pytest.approx(29.0)
    before = list(world.hosts.calls)
    world.add(pod("second", label="one"))
    await world.reconcile()
    assert world.hosts.calls == before, "an event does not hurry it"
    assert await world.later(30.0) == PassResult()
    assert world.changes[-1].adds == (identity_id("two"),)
    assert world.statuses()["two-default-two"] == "Assigned"
    assert world.message("two-default-two") == ""


async def test_an_identity_that_stays_refused_is_retried_at_growing_intervals(world: MicWorld) -> None:
    world.bind()
    world.refuse("demo")
    # The second of the retry interval passes before the pass ends.
    assert [round(pause + 1) for pause in await world.pauses(9)] == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]


async def test_an_identity_that_a_refusal_names_unreadably_blocks_no_other(world: MicWorld) -> None:
    world.bind(*(f"id{number}" for number in range(4)))
    world.refuse("id2", refusal=lambda _bad: bad("cut-off"))
    for _ in range(3):
        await world.reconcile()
    assert sorted(world.statuses().values()) == ["Assigned"] * 3 + ["Created"]
    assert "grant it the role" in world.message("id2-default-id2")
    reported = {event["involvedObject"]["name"] for event in await world.warnings()}
    assert reported == {"id2", "id2-default-id2"}, "no identity is reported before the refused one is known"


async def test_a_reason_longer_than_a_message_is_written_once(world: MicWorld) -> None:
    world.bind()
    there = [identity_id(f"{number}{'x' * 120}").lower() for number in range(9)]
    world.hosts.state = HostIdentities(
        type="UserAssigned", attached={identity: Attached(identity) for identity in there}
    )
    refused = BadIdentities("no", status=400)
    refused.ids = frozenset(there)
    world.fail("update", refused)
    await world.reconcile()
    assert len(world.message("demo-default-demo")) == MESSAGE_MAX
    world.api.requests.clear()
    await world.reconcile()
    assert "PATCH" not in world.api.written("")
