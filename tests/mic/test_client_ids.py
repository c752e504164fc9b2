"""An AzureIdentity whose client id differs from the one that Azure reports for its resource id.

MIC does not assign it. Its Event and its log line name both ids, and it causes no further calls or writes while it does
not change.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest

from mic.azure.identities import Attached, HostIdentities
from mic.decisions.client_ids import SHOWN_MAX, mismatch
from mic.decisions.documents import MESSAGE_MAX
from mic.preview.dry_run import DryRun, Snapshot
from mic.preview.outcome import AzureReads, preview
from mic.reconciliation.events import FAULTY
from mic.reconciliation.host_reconciler import DOUBT_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.resources import AzureAssignedIdentity, AzureIdentity, Pod
from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.cluster import Cluster, binding, identity, identity_id, node, pod, vm_id
from tests.mic.reconcile_bench import VM, ReconcileBench, reconcile_bench

OWN, KUBELETS = "0a000000-0000-0000-0000-000000000001", "0b000000-0000-0000-0000-000000000002"
DISHONEST = identity("own", client_id=KUBELETS)
HONEST = identity("own", client_id=f" {OWN.upper()} ")
HOST = vm_id("n0")


@pytest.fixture
async def stage() -> AsyncIterator[ReconcileBench]:
    """A VM with the identity `own` on it, and the kubelet's."""
    async with reconcile_bench() as made:
        attached = {
            identity_id(name).lower(): Attached(identity_id(name), client_id)
            for name, client_id in (("own", OWN), ("kubelet", KUBELETS))
        }
        made.hosts.state = HostIdentities(type="UserAssigned", attached=attached, etag='"1"')
        yield made


def bind(stage: ReconcileBench, given: AzureIdentity, *pods: Pod) -> None:
    stage.view.identities.upserted(None, given)
    stage.view.bindings.upserted(None, binding(identity=given.metadata.name))
    for each in pods or (pod(),):
        stage.view.pods.upserted(None, each)


async def event_messages(stage: ReconcileBench) -> set[tuple[str, str]]:
    """The kinds of the objects that were warned about, and the reasons."""
    await stage.recorder.flushed()
    warnings = [each for each in stage.api.store.list("events") if each["type"] == "Warning"]
    for each in warnings:
        assert OWN in each["message"]
        assert KUBELETS in each["message"]
    return {(each["involvedObject"]["kind"], each["reason"]) for each in warnings}


async def test_a_wrong_client_id_stays_created_and_the_object_and_events_name_both_ids(
    stage: ReconcileBench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        bind(stage, DISHONEST)
        await stage.reconcile()
    assert stage.statuses() == {"web-default-own": "Created"}
    message = stage.message("web-default-own")
    assert OWN in message
    assert KUBELETS in message
    assert "default/own" in message
    assert await event_messages(stage) == {
        ("AzureIdentity", "invalid identity"),
        ("AzureIdentityBinding", "binding apply error"),
        ("Pod", "binding apply error"),
        ("AzureAssignedIdentity", "binding apply error"),
    }
    (line,) = [record for record in caplog.records if record.message == FAULTY]
    assert line.__dict__["identity"] == "default/own"


@pytest.mark.parametrize("given", [HONEST, identity("own", client_id=" ")], ids=["in-any-case", "none-named"])
async def test_the_other_identity_is_assigned(stage: ReconcileBench, given: AzureIdentity) -> None:
    bind(stage, given)
    await stage.reconcile()
    assert stage.statuses() == {"web-default-own": "Assigned"}
    assert await event_messages(stage) == set()


async def test_without_a_client_id_from_azure_the_identity_is_assigned(stage: ReconcileBench) -> None:
    stage.hosts.state = HostIdentities()
    bind(stage, DISHONEST)
    await stage.reconcile()
    assert stage.statuses() == {"web-default-own": "Assigned"}


async def test_a_client_id_that_azure_reports_later_withdraws_it_at_the_next_read(stage: ReconcileBench) -> None:
    """As after an upgrade: an earlier version without the comparison assigned the object."""
    known = stage.hosts.state
    stage.hosts.state = HostIdentities()
    bind(stage, DISHONEST)
    await stage.reconcile()
    assert stage.statuses() == {"web-default-own": "Assigned"}
    stage.hosts.state = known
    stage.host_reconciler.look_again(VM)
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {"web-default-own": "Created"}
    assert KUBELETS in stage.message("web-default-own")
    assert ("AzureIdentity", "invalid identity") in await event_messages(stage)


async def test_a_wrong_client_id_costs_no_further_call_or_write(stage: ReconcileBench) -> None:
    bind(stage, DISHONEST, pod(), pod("second"))
    assert await stage.reconcile() == PassResult(), (
        "nothing but an event, or the ordinary read, makes another round worth while"
    )
    calls = list(stage.hosts.calls)
    await stage.recorder.flushed()
    writes: list[str] = []

    def note(request: Recorded) -> None:
        if request.method != "GET":
            writes.append(f"{request.method} {request.path}")

    stage.api.intercept = note
    for _ in range(10):
        stage.time.now += DOUBT_SECONDS + 1
        assert await stage.reconcile() == PassResult()
    assert stage.hosts.calls == calls
    for _ in range(3):
        stage.host_reconciler.look_again(VM)
        await stage.reconcile()
    assert stage.hosts.calls == [*calls, "get", "get", "get"]
    await stage.recorder.flushed()
    assert writes == []
    assert stage.host_reconciler.oldest_pending_seconds() == 0.0, (
        "no alert for what only the identity's owner can correct"
    )


async def test_the_corrected_object_is_assigned_immediately_and_its_message_is_removed(stage: ReconcileBench) -> None:
    bind(stage, DISHONEST)
    await stage.reconcile()
    stage.view.identities.upserted(DISHONEST, HONEST)
    await stage.reconcile()
    assert stage.statuses() == {"web-default-own": "Assigned"}
    assert stage.message("web-default-own") == ""


async def test_an_identity_recreated_on_azure_is_read_before_its_object_is_blamed(stage: ReconcileBench) -> None:
    bind(stage, HONEST)
    await stage.reconcile()
    key = identity_id("own").lower()
    recreated_client_id = "0c000000-0000-0000-0000-000000000003"
    stage.hosts.state = replace(
        stage.hosts.state,
        attached={**stage.hosts.state.attached, key: Attached(identity_id("own"), recreated_client_id)},
    )
    stage.time.now += DOUBT_SECONDS + 1
    stage.view.identities.upserted(HONEST, identity("own", client_id=recreated_client_id))
    await stage.reconcile()
    await stage.reconcile()
    assert stage.statuses() == {"web-default-own": "Assigned"}


async def test_an_endlessly_changing_object_causes_at_most_two_azure_reads_per_minute(stage: ReconcileBench) -> None:
    bind(stage, DISHONEST)
    before, began = DISHONEST, stage.time.now
    await stage.reconcile()
    calls = len(stage.hosts.calls)
    for number in range(200):
        stage.time.now += 1.0
        after = identity("own", client_id=f"{KUBELETS[:-3]}{number:03}")
        stage.view.identities.upserted(before, after)
        before = after
        await stage.reconcile()
    assert len(stage.hosts.calls) - calls <= (stage.time.now - began) / DOUBT_SECONDS


def test_a_client_id_changed_while_azure_is_unreachable_does_not_stay_assigned() -> None:
    cluster = Cluster()
    cluster.host(HOST, "own", client_id=OWN)
    cluster.add(node(), pod(), HONEST, binding(identity="own"))
    cluster.reconcile_until_in_sync(HOST)
    assert cluster.statuses() == {"web-default-own": "Assigned"}
    cluster.add(DISHONEST)
    cluster.reconcile(HOST, look=False)
    assert cluster.statuses() == {"web-default-own": "Created"}


def test_a_correct_object_with_the_same_resource_id_is_not_affected() -> None:
    cluster = Cluster()
    cluster.host(HOST, "own", client_id=OWN)
    honest = identity("honest", resource_id=identity_id("own"), client_id=OWN)
    cluster.add(node(), honest, binding("b1", identity="honest", selector="honest"), pod("good", label="honest"))
    cluster.add(DISHONEST, binding("b2", identity="own", selector="dishonest"), pod("bad", label="dishonest"))
    cluster.reconcile_until_in_sync(HOST)
    assert cluster.statuses() == {"good-default-honest": "Assigned", "bad-default-own": "Created"}


def test_a_pod_with_both_objects_gets_the_correct_one() -> None:
    cluster = Cluster()
    cluster.host(HOST, "own", client_id=OWN)
    cluster.add(node(), pod(), DISHONEST, identity("fine", resource_id=identity_id("own"), client_id=OWN))
    cluster.add(binding("b1", identity="own"), binding("b2", identity="fine"))
    cluster.reconcile_until_in_sync(HOST)
    assert cluster.statuses() == {"web-default-own": "Created", "web-default-fine": "Assigned"}


def test_the_plan_lists_it_among_the_assigned_and_among_the_waiting() -> None:
    cluster = Cluster()
    cluster.host(HOST, "own", client_id=OWN)
    cluster.add(node(), pod(), HONEST, binding(identity="own"))
    cluster.reconcile_until_in_sync(HOST)
    (written,) = cluster.objects.values()
    document = msgspec.to_builtins(written)
    document["spec"]["azureIdentityRef"]["spec"]["clientID"] = KUBELETS
    snapshot = Snapshot(
        pods=(pod(), pod("waits")),
        nodes=(node(),),
        identities=(DISHONEST,),
        bindings=(binding(identity="own"),),
        assigned=(msgspec.convert(document, AzureAssignedIdentity),),
    )
    plan = preview(snapshot, DryRun(snapshot, cluster.policy), AzureReads(answers=dict(cluster.azure)), {})
    (host,) = plan.hosts
    changes = {each.pod: (each.was, each.becomes, each.detail) for each in host.objects}
    assert changes["default/web"][:2] == ("Assigned", "Created")
    assert changes["default/waits"][:2] == ("", "Created")
    assert all(OWN in detail and KUBELETS in detail for _, _, detail in changes.values())
    assert {each.pod for each in host.waiting} == {"default/web", "default/waits"}
    assert all(OWN in each.why and KUBELETS in each.why for each in host.waiting)


def test_a_client_id_of_a_megabyte_results_in_a_short_one_line_message() -> None:
    long = mismatch(identity("own", client_id="x\n" * 500_000), Attached("id", OWN))
    assert len(long) < MESSAGE_MAX
    assert "\n" not in long
    assert "x" * (SHOWN_MAX + 1) not in long
