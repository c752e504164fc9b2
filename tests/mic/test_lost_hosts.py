"""A VM or scale set that does not exist on Azure any more although its node exists. A temporary 404 revokes nothing."""

import pytest

from mic.azure.errors import AzureError
from mic.azure.identities import Change, HostIdentities
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from tests.mic.cluster import Cluster, Thing, binding, identity, node, pod, vm_id
from tests.mic.reconcile_bench import VM, ReconcileBench

LOST = HostIdentities(gone=True)


async def test_one_404_changes_nothing(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    there, stage.hosts.state = stage.hosts.state, LOST
    stage.host_reconciler.look_again(VM)
    done = await stage.reconcile()
    assert done.again_after == pytest.approx(5.0)
    assert stage.statuses() == {"demo-default-demo": "Assigned"}
    stage.hosts.state = there
    stage.time.now += 5.0
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}
    assert len(stage.hosts.changes) == 1


async def test_a_missing_host_is_read_a_few_times_within_the_minute(stage: ReconcileBench) -> None:
    stage.hosts.state = LOST
    stage.bind()
    pauses = []
    for _ in range(7):
        done = await stage.reconcile()
        assert done.again_after is not None
        pauses.append(done.again_after)
        stage.time.now += done.again_after
    assert pauses == [5.0, 5.0, 10.0, 20.0, 20.0, 180.0, 180.0]


async def test_a_lost_host_stays_lost_while_azure_does_not_respond(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.state = LOST
    await stage.reconcile()
    stage.time.now += 60.0
    await stage.reconcile()
    assert stage.statuses() == {}
    stage.time.now += 180.0
    stage.hosts.unread = [AzureError("broken", status=500)]
    await stage.reconcile()
    assert stage.statuses() == {}, "nothing is made that would have to go again"


async def test_a_second_404_after_a_minute_counts_and_the_objects_are_deleted(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.hosts.state = LOST
    stage.host_reconciler.look_again(VM)
    await stage.reconcile()
    stage.time.now += 60.0
    done = await stage.reconcile()
    assert stage.statuses() == {}
    assert done.again_after == pytest.approx(180.0), "looked at once in an interval"
    assert len(stage.hosts.changes) == 1, "Azure is not touched"
    assert await stage.warned() == [
        "AzureAssignedIdentity demo-default-demo",
        "AzureIdentityBinding demo",
        "Pod demo",
    ]


async def test_a_pod_scheduled_to_a_lost_host_is_reported_at_the_next_read(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.state = LOST
    await stage.reconcile()
    stage.time.now += 60.0
    await stage.reconcile()
    stage.bind("late")
    await stage.reconcile()
    assert stage.statuses() == {}
    stage.time.now += 180.0
    await stage.reconcile()
    assert {"Pod late", "AzureIdentityBinding late"} <= set(await stage.warned())


async def test_events_and_comparisons_do_not_hasten_the_next_read(stage: ReconcileBench) -> None:
    stage.hosts.state = LOST
    stage.bind()
    await stage.reconcile()
    for expected in (1, 2):
        for number in range(3):
            stage.view.pods.upserted(None, pod(f"p{expected}{number}", label="demo"))
            stage.host_reconciler.look_again(VM)
            await stage.reconcile()
        assert len(stage.hosts.calls) == expected
        stage.time.now += 60.0
        await stage.reconcile()


async def test_a_new_pod_on_a_lost_host_states_why_it_waits(stage: ReconcileBench) -> None:
    stage.hosts.state = LOST
    stage.bind()
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Created"}
    assert "Azure has no /subscriptions/sub" in stage.message("demo-default-demo")


async def test_a_host_that_returns_gets_its_identities_again(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.state = LOST
    await stage.reconcile()
    stage.time.now += 60.0
    await stage.reconcile()
    assert stage.statuses() == {}
    stage.hosts.state = HostIdentities(etag='"1"')
    stage.time.now += 180.0
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}


async def test_an_error_between_two_404s_does_not_count(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.state = LOST
    await stage.reconcile()
    stage.time.now += 60.0
    stage.hosts.unread = [AzureError("broken", status=500)]
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Created"}
    stage.time.now += 1.0
    await stage.reconcile()
    assert stage.statuses() == {}


async def test_a_host_that_was_found_in_between_is_not_lost(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    there = stage.hosts.state
    for state in (LOST, there, LOST):
        stage.hosts.state = state
        stage.host_reconciler.look_again(VM)
        await stage.reconcile()
        stage.time.now += 60.0
    assert stage.statuses() == {"demo-default-demo": "Assigned"}


async def test_an_update_that_finds_the_host_missing_counts_as_one_404(stage: ReconcileBench) -> None:
    stage.bind()

    async def lost(host: Host, change: Change) -> HostIdentities:
        del host, change
        stage.hosts.state = LOST
        return LOST

    stage.hosts.update = lost  # type: ignore[method-assign]  # one test's Azure
    assert (await stage.reconcile()).again_after == pytest.approx(5.0)
    assert stage.statuses() == {"demo-default-demo": "Created"}


def lost_vm(*more: Thing) -> Cluster:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.host(vm_id("n1"))
    cluster.add(node("n0"), node("n1"), identity(), binding(), *more)
    cluster.reconcile_until_in_sync(vm_id("n0"), vm_id("n1"))
    cluster.host(vm_id("n0"), gone=True)
    return cluster


def test_a_service_principal_requires_nothing_of_the_host_and_stays() -> None:
    cluster = lost_vm(identity("sp", type_=1), binding("sp", identity="sp", selector="sp"), pod("app", label="sp"))
    cluster.add(pod("later", label="sp"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.statuses() == {"app-default-sp": "Assigned", "later-default-sp": "Assigned"}


def test_a_pod_that_moves_to_a_lost_vm_leaves_nothing_on_the_old_vm() -> None:
    cluster = lost_vm(pod(node="n1", uid="first"))
    cluster.add(pod(node="n0", uid="second"))
    cluster.reconcile_until_in_sync(vm_id("n0"), vm_id("n1"))
    assert cluster.objects == {}
    assert cluster.on(vm_id("n1")) == set()


def test_a_pod_that_leaves_a_lost_vm_is_assigned_on_its_new_host() -> None:
    cluster = lost_vm(pod(uid="first"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.add(pod(node="n1", uid="second"))
    cluster.reconcile_until_in_sync(vm_id("n1"))
    assert cluster.statuses() == {"web-default-demo": "Assigned"}
    assert cluster.on(vm_id("n1")) == {"demo"}


def test_an_identity_that_becomes_a_service_principal_there_is_updated_in_place_and_not_revoked() -> None:
    cluster = Cluster()
    cluster.host(VM)
    cluster.add(node(), identity(), binding(), pod())
    cluster.reconcile_until_in_sync(VM)
    cluster.azure[VM] = LOST
    cluster.add(identity(type_=1))
    steps = cluster.reconcile(VM)
    assert "update" in steps
    assert "revoke" not in steps
    assert cluster.statuses() == {"web-default-demo": "Assigned"}
