"""Quarantined identities: which ones Azure refuses, found in few updates, and the retries.

MIC reports them, retries them with increasing pauses, and never in the same update as identities that are needed.
"""

from collections.abc import Callable, Collection
from dataclasses import replace

import pytest

from mic.azure.errors import AzureError, BadIdentities, Missing, Refused
from mic.azure.identities import Attached, Change, HostIdentities
from mic.azure.memory import QUARANTINE_MOST_SECONDS, HostMemory
from mic.reconciliation.events import EVENTS_PER_IDENTITY_MAX
from mic.reconciliation.host_updater import REFUSED
from podidentity.azure.resource_ids import Host
from tests.mic.cluster import identity_id, pod
from tests.mic.reconcile_bench import VM, ReconcileBench

NAMES = tuple(f"id{number:02d}" for number in range(20))
Refusal = Callable[[frozenset[str]], AzureError]


def named_all(bad: frozenset[str]) -> AzureError:
    error = BadIdentities("linked scopes", status=403, code="LinkedAuthorizationFailed")
    error.ids = bad
    return error


def named_first(bad: frozenset[str]) -> AzureError:
    """The error of an operation: Azure stops at the first refused identity, and the poll has the status 200."""
    error = BadIdentities("identity operation", status=200, code="FailedIdentityOperation")
    error.ids = frozenset([min(bad)])
    return error


def unnamed(_bad: frozenset[str]) -> AzureError:
    return Refused("no", status=400, code="InvalidParameter")


def group_missing(_bad: frozenset[str]) -> AzureError:
    return Missing("Resource group 'gone' could not be found.", status=404, code="ResourceGroupNotFound")


def refuse(stage: ReconcileBench, bad: Collection[str], refusal: Refusal) -> None:
    """Have Azure refuse every update that names one of *bad* from now on."""
    update = type(stage.hosts).update
    keys = {identity_id(name).lower() for name in bad}

    async def refusing(host: Host, change: Change) -> HostIdentities:
        if here := keys & {text.lower() for text in (*change.adds, *change.removes)}:
            stage.hosts.failures = [refusal(frozenset(here))]
        return await update(stage.hosts, host, change)

    stage.hosts.update = refusing  # type: ignore[method-assign]  # one test's Azure


async def come_to_rest(stage: ReconcileBench) -> float:
    """Run passes as the queue does until one returns a pause of seconds, and return this pause."""
    for _ in range(40):
        done = await stage.reconcile()
        if done.again_after is None or done.again_after > 1.0:
            return done.again_after or 0.0
        stage.time.now += done.again_after
    raise AssertionError("forty rounds did not settle it")


def sizes(stage: ReconcileBench) -> list[int]:
    return [len(change.adds) for change in stage.hosts.changes]


@pytest.mark.parametrize("culprit", [NAMES[0], NAMES[7], NAMES[19]])
@pytest.mark.parametrize(("refusal", "updates"), [(named_all, 2), (named_first, 2), (unnamed, 8), (group_missing, 8)])
async def test_one_refused_identity_among_twenty_is_found_immediately(
    stage: ReconcileBench, culprit: str, refusal: Refusal, updates: int
) -> None:
    for name in NAMES:
        stage.bind(name)
    refuse(stage, [culprit], refusal)
    began = stage.time.now
    pause = await come_to_rest(stage)
    assert stage.time.now - began < 2.0
    assert len(stage.hosts.changes) <= updates
    waiting = {name for name, status in stage.statuses().items() if status == "Created"}
    assert waiting == {f"{culprit}-default-{culprit}"}
    assert 25.0 < pause <= 30.0


@pytest.mark.parametrize("refusal", [named_all, named_first, unnamed, group_missing])
async def test_two_refused_identities_block_no_other(stage: ReconcileBench, refusal: Refusal) -> None:
    for name in NAMES:
        stage.bind(name)
    refuse(stage, [NAMES[3], NAMES[16]], refusal)
    await come_to_rest(stage)
    assert len(stage.hosts.changes) <= 16
    assert sorted(stage.statuses().values()) == ["Assigned"] * 18 + ["Created"] * 2


@pytest.mark.parametrize(
    ("refusal", "updates"), [(named_all, 1), (named_first, 20), (unnamed, 30), (group_missing, 30)]
)
async def test_if_all_are_refused_each_is_tried_little_more_than_once(
    stage: ReconcileBench, refusal: Refusal, updates: int
) -> None:
    for name in NAMES:
        stage.bind(name)
    refuse(stage, NAMES, refusal)
    await come_to_rest(stage)
    assert len(stage.hosts.changes) <= updates
    assert set(stage.statuses().values()) == {"Created"}
    before = len(stage.hosts.changes)
    stage.time.now += 31.0
    await come_to_rest(stage)
    assert len(stage.hosts.changes) - before <= len(NAMES), "known to be bad, so not halved again"


@pytest.mark.parametrize("refusal", [named_all, unnamed])
async def test_a_retry_of_a_quarantined_identity_is_a_separate_update(stage: ReconcileBench, refusal: Refusal) -> None:
    for name in ("bad", "one"):
        stage.bind(name)
    refuse(stage, ["bad"], refusal)
    await come_to_rest(stage)
    stage.time.now += 40.0
    stage.bind("two")
    stage.hosts.changes.clear()
    await come_to_rest(stage)
    assert [change.adds for change in stage.hosts.changes] == [(identity_id("two"),), (identity_id("bad"),)]
    assert sorted(stage.statuses().values()) == ["Assigned", "Assigned", "Created"]


async def test_a_changed_identity_is_retried_immediately_and_still_separately(stage: ReconcileBench) -> None:
    for name in ("bad", "one"):
        stage.bind(name)
    refuse(stage, ["bad"], unnamed)
    await come_to_rest(stage)
    stage.bind("two")
    assert stage.host_reconciler.retry_identity(identity_id("bad").lower()) == [VM]
    stage.hosts.changes.clear()
    await come_to_rest(stage)
    assert [change.adds for change in stage.hosts.changes] == [(identity_id("two"),), (identity_id("bad"),)]
    assert stage.host_reconciler.quarantined() == 1


async def test_a_detach_does_not_wait_for_a_retry(stage: ReconcileBench) -> None:
    for name in ("bad", "one"):
        stage.bind(name)
    refuse(stage, ["bad"], unnamed)
    await come_to_rest(stage)
    stage.unbind("one")
    await come_to_rest(stage)
    assert stage.hosts.state.attached == {}
    assert list(stage.statuses()) == ["bad-default-bad"]


async def test_binding_pod_and_object_state_the_refusal(stage: ReconcileBench) -> None:
    stage.bind("bad")
    refuse(stage, ["bad"], named_all)
    await come_to_rest(stage)
    assert await stage.warned() == ["AzureAssignedIdentity bad-default-bad", "AzureIdentityBinding bad", "Pod bad"]
    events = [each for each in stage.api.store.list("events") if each["type"] == "Warning"]
    (about_pod,) = [each["involvedObject"] for each in events if each["involvedObject"]["kind"] == "Pod"]
    assert about_pod["uid"] == pod("bad").metadata.uid, "kubectl describe looks for the uid"
    assert all("Managed Identity Operator" in each["message"] for each in events)


@pytest.mark.parametrize("refusal", [named_all, named_first, unnamed])
async def test_the_log_names_each_refused_identity_once(
    stage: ReconcileBench, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(stage, ["id01", "id02"], refusal)
    for name in NAMES[:4]:
        stage.bind(name)
    await come_to_rest(stage)
    records = [each for each in caplog.records if each.getMessage() == REFUSED]
    assert sorted(each.__dict__["identity"].lower() for each in records) == [
        identity_id(name).lower() for name in ("id01", "id02")
    ]


async def test_a_pod_created_later_gets_the_event_too(stage: ReconcileBench) -> None:
    stage.bind("bad")
    refuse(stage, ["bad"], named_all)
    await come_to_rest(stage)
    stage.view.pods.upserted(None, pod("later", label="bad"))
    await stage.reconcile()
    assert "Pod later" in await stage.warned()
    assert "Managed Identity Operator" in stage.message("later-default-bad")
    assert len(stage.hosts.changes) == 1


async def test_of_many_pods_a_few_get_an_event_and_all_objects_state_it(stage: ReconcileBench) -> None:
    stage.bind("bad")
    for number in range(40):
        stage.view.pods.upserted(None, pod(f"p{number}", label="bad"))
    refuse(stage, ["bad"], named_all)
    await come_to_rest(stage)
    warned = await stage.warned()
    assert len([each for each in warned if each.startswith("Pod ")]) == EVENTS_PER_IDENTITY_MAX
    assert all("Managed Identity Operator" in stage.message(name) for name in stage.statuses())


@pytest.mark.parametrize("refusal", [named_all, named_first, unnamed])
async def test_an_identity_that_cannot_be_detached_blocks_neither_attaches_nor_detaches(
    stage: ReconcileBench, refusal: Refusal
) -> None:
    for name in ("stuck", "goes"):
        stage.bind(name)
    await come_to_rest(stage)
    refuse(stage, ["stuck"], refusal)
    for name in ("stuck", "goes"):
        stage.unbind(name)
    stage.bind("comes")
    pause = await come_to_rest(stage)
    assert {key.rpartition("/")[2] for key in stage.hosts.state.attached} == {"stuck", "comes"}
    assert stage.statuses() == {"comes-default-comes": "Assigned", "stuck-default-stuck": "Assigned"}
    assert 25.0 < pause <= 30.0
    before = len(stage.hosts.changes)
    stage.bind("later")
    await come_to_rest(stage)
    assert [change.removes for change in stage.hosts.changes[before:]] == [()]
    stage.hosts.update = type(stage.hosts).update.__get__(stage.hosts)  # type: ignore[method-assign]  # it is cured
    stage.time.now += 31.0
    await come_to_rest(stage)
    assert {key.rpartition("/")[2] for key in stage.hosts.state.attached} == {"comes", "later"}
    assert stage.host_reconciler.quarantined() == 0


async def test_a_refusal_that_names_an_attached_identity_blames_no_new_one(stage: ReconcileBench) -> None:
    stage.bind("dead")
    await come_to_rest(stage)
    for name in ("one", "two"):
        stage.bind(name)
    error = named_first(frozenset([identity_id("dead").lower()]))
    stage.hosts.failures = [error]
    done = await stage.reconcile()
    assert done.again_after == pytest.approx(0.5)
    assert stage.host_reconciler.quarantined() == 0
    assert f"while {identity_id('dead').lower()} is on it" in stage.message("one-default-one")
    assert {"Pod one", "Pod two"} <= set(await stage.warned())
    stage.time.now += 0.5
    await come_to_rest(stage)
    assert sizes(stage) == [1, 2, 2]
    assert stage.message("one-default-one") == ""
    assert set(stage.statuses().values()) == {"Assigned"}


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


async def test_a_read_that_finds_it_attached_ends_the_quarantine(stage: ReconcileBench) -> None:
    stage.bind("bad")
    refuse(stage, ["bad"], named_all)
    await come_to_rest(stage)
    attached = {identity_id("bad").lower(): Attached(identity_id("bad"))}
    there = HostIdentities(type="UserAssigned", attached=attached, etag='"2"')
    stage.hosts.state = replace(there, provisioning_state="Updating")
    stage.host_reconciler.look_again(VM)
    await stage.reconcile()
    assert stage.host_reconciler.quarantined() == 1
    assert stage.statuses() == {"bad-default-bad": "Created"}, "the operation may fail as ours did"
    stage.hosts.state = there
    await stage.reconcile()
    assert stage.host_reconciler.quarantined() == 0
    assert stage.statuses() == {"bad-default-bad": "Assigned"}
    assert stage.message("bad-default-bad") == ""
