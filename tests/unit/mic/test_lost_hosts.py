"""A host that does not exist on Azure any more although its node exists: a temporary 404 revokes nothing. Other clients
change the host between GET and PATCH, keep an object by a finalizer, or record pending detaches.
"""

import asyncio
import json
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import CollectorRegistry

from mic.azure.errors import AzureError
from mic.azure.identities import BOTH, SYSTEM, USER, Attached, Change, HostIdentities
from mic.decisions.assignments import DETACH_PENDING_ANNOTATION, PendingDetach
from mic.decisions.steps import CompleteDetaches
from mic.metrics import MicMetrics
from mic.reconciliation.work_queue import PassResult
from mic.reconciliation.writer import Writer, Written
from podidentity.azure.resource_ids import Host
from podidentity.resources import ASSIGNED_IDENTITIES, FINALIZER
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import ClusterObject, binding, identity, identity_id, node, pod, vm_id

LOST = HostIdentities(gone=True)


async def lose_from_the_start(world: MicWorld) -> None:
    """Let Azure lack the host of a pod for so long that MIC believes it."""
    world.hosts.state = LOST
    await world.assign()
    assert world.statuses() == {"demo-default-demo": "Created"}
    assert "Azure has no /subscriptions/sub" in world.message("demo-default-demo")
    await world.later(60.0)
    assert world.statuses() == {}


async def test_404s_between_which_the_host_was_found_change_nothing(world: MicWorld) -> None:
    await world.assign()
    there = world.hosts.state
    for _ in range(2):
        world.hosts.state = LOST
        assert (await world.look()).again_after == pytest.approx(5.0)
        assert world.statuses() == {"demo-default-demo": "Assigned"}
        world.hosts.state = there
        await asyncio.sleep(60.0)
        assert await world.reconcile() == PassResult()
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert len(world.changes) == 1


async def test_a_missing_host_is_read_a_few_times_within_the_minute(world: MicWorld) -> None:
    world.hosts.state = LOST
    world.bind()
    assert await world.pauses(7) == [5.0, 5.0, 10.0, 20.0, 20.0, 180.0, 180.0]


async def test_a_lost_host_stays_lost_while_azure_fails_and_has_its_identities_again_later(
    world: MicWorld,
) -> None:
    await lose_from_the_start(world)
    await asyncio.sleep(180.0)
    world.fail("get", AzureError("broken", status=500))
    await world.reconcile()
    assert world.statuses() == {}, "nothing is made that would have to go again"
    world.hosts.state = HostIdentities(etag='"1"')
    assert await world.later(180.0) == PassResult()
    assert world.statuses() == {"demo-default-demo": "Assigned"}


async def test_a_second_404_after_a_minute_counts_and_the_objects_are_deleted(world: MicWorld) -> None:
    await world.assign()
    world.hosts.state = LOST
    await world.look()
    await asyncio.sleep(60.0)
    done = await world.reconcile()
    assert world.statuses() == {}
    assert done.again_after == pytest.approx(180.0), "looked at once in an interval"
    assert len(world.changes) == 1, "Azure is not touched"
    assert await world.warned() == [
        "AzureAssignedIdentity demo-default-demo",
        "AzureIdentityBinding demo",
        "Pod demo",
    ]


async def test_a_pod_scheduled_to_a_lost_host_is_reported_immediately_and_again_at_the_next_read(
    world: MicWorld,
) -> None:
    async def counts() -> list[int]:
        return [event["count"] for event in await world.warnings() if event["involvedObject"]["name"] == "late"]

    await lose_from_the_start(world)
    await world.assign("late")
    assert world.statuses() == {}
    assert {"Pod late", "AzureIdentityBinding late"} <= set(await world.warned())
    assert await counts() == [1, 1]
    await world.reconcile()
    assert await counts() == [1, 1]
    await world.later(180.0)
    assert await counts() == [2, 2]


async def test_events_and_comparisons_do_not_hasten_the_next_read(world: MicWorld) -> None:
    world.hosts.state = LOST
    await world.assign()
    for expected in (1, 2):
        for number in range(3):
            world.add(pod(f"p{expected}{number}", label="demo"))
            await world.look()
        assert len(world.hosts.calls) == expected
        await asyncio.sleep(60.0)
        await world.reconcile()


async def test_an_error_between_two_404s_does_not_count(world: MicWorld) -> None:
    world.bind()
    world.hosts.state = LOST
    await world.reconcile()
    await asyncio.sleep(60.0)
    world.fail("get", AzureError("broken", status=500))
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Created"}
    await world.later(1.0)
    assert world.statuses() == {}


async def test_an_update_that_finds_the_host_missing_counts_as_one_404(world: MicWorld) -> None:
    world.bind()

    async def lost(host: Host, change: Change) -> HostIdentities:
        del host, change
        world.hosts.state = LOST
        return LOST

    world.hosts.update = lost  # type: ignore[method-assign]  # one test's Azure
    assert (await world.reconcile()).again_after == pytest.approx(5.0)
    assert world.statuses() == {"demo-default-demo": "Created"}


async def lost_vm(world: MicWorld, *more: ClusterObject) -> None:
    world.host(vm_id("n1"))
    await world.settle_with(node("n1"), identity(), binding(), *more)
    await world.lose(VM)


async def test_a_service_principal_requires_nothing_of_the_host_and_stays(world: MicWorld) -> None:
    await lost_vm(world, identity("sp", type_=1), binding("sp", identity="sp", selector="sp"), pod("app", label="sp"))
    await world.settle_with(pod("later", label="sp"))
    assert world.statuses() == {"app-default-sp": "Assigned", "later-default-sp": "Assigned"}


async def test_a_pod_that_moves_to_a_lost_vm_leaves_nothing_on_the_old_vm(world: MicWorld) -> None:
    await lost_vm(world, pod(node="n1", uid="first"))
    await world.settle_with(pod(node="n0", uid="second"))
    assert world.objects == {}
    assert world.attached(vm_id("n1")) == set()


async def test_a_pod_that_leaves_a_lost_vm_is_assigned_on_its_new_host(world: MicWorld) -> None:
    await lost_vm(world, pod(uid="first"))
    await world.settle()
    world.add(pod(node="n1", uid="second"))
    await world.settle(vm_id("n1"))
    assert world.statuses() == {"web-default-demo": "Assigned"}
    assert world.attached(vm_id("n1")) == {"demo"}


async def test_an_identity_that_becomes_a_service_principal_there_is_updated_and_not_revoked(
    world: MicWorld,
) -> None:
    world.bind()
    await world.settle()
    await world.lose(VM)
    world.add(identity(type_=1))
    steps = await world.steps()
    assert "update" in steps
    assert "revoke" not in steps
    assert world.statuses() == {"demo-default-demo": "Assigned"}


def another_writer_acts(world: MicWorld, change: Callable[[HostIdentities], HostIdentities]) -> None:
    """Let a second writer apply *change* to the host immediately after the next GET."""
    get = type(world.hosts).get
    done: list[HostIdentities] = []

    async def then_changed(host: Host) -> HostIdentities:
        seen = await get(world.hosts, host)
        if not done:
            done.append(seen)
            world.hosts.state = change(seen)
        return seen

    world.hosts.get = then_changed  # type: ignore[method-assign]  # one test's Azure


def host(type_: str, names: Iterable[str] = (), etag: str = "") -> HostIdentities:
    ids = [identity_id(name) for name in names]
    return HostIdentities(type=type_, attached={text.lower(): Attached(text) for text in ids}, etag=etag)


@pytest.mark.parametrize("etag", ["", '"2"'], ids=["no-etags", "etags"])
async def test_a_system_assigned_identity_added_before_our_first_attach_survives(world: MicWorld, etag: str) -> None:
    world.hosts.state = host("None", etag=etag and '"1"')
    another_writer_acts(world, lambda _seen: host(SYSTEM, etag=etag))
    world.bind()
    assert await world.reconcile() == PassResult()
    assert (world.hosts.state.type, world.attached(VM)) == (BOTH, {"demo"})
    assert len(world.changes) == (2 if etag else 1)


@pytest.mark.parametrize("etag", ["", '"2"'], ids=["no-etags", "etags"])
@pytest.mark.parametrize("type_", [USER, BOTH])
async def test_an_identity_added_concurrently_survives_our_last_detach(world: MicWorld, etag: str, type_: str) -> None:
    world.hosts.state = host("None" if type_ == USER else SYSTEM, etag=etag and '"1"')
    await world.assign()
    assert world.hosts.state.type == type_
    world.unbind()
    another_writer_acts(world, lambda _seen: host(type_, ["demo", "theirs"], etag))
    assert await world.reconcile() == PassResult()
    assert (world.hosts.state.type, world.attached(VM)) == (type_, {"theirs"})


async def test_an_update_that_keeps_the_type_requires_no_second_read(world: MicWorld) -> None:
    world.hosts.state = host(USER, ["theirs"])
    await world.assign()
    assert world.hosts.calls == ["get", "update"]


async def test_our_identity_detached_by_a_second_writer_is_attached_again_immediately(world: MicWorld) -> None:
    """The second writer read the host before MIC. Its type without user-assigned identities removes MIC's."""
    world.hosts.state = host("None")
    update = type(world.hosts).update

    async def overwritten(host: Host, change: Change) -> HostIdentities:
        await update(world.hosts, host, change)
        if len(world.changes) == 1:
            world.hosts.state = HostIdentities(type=SYSTEM)
        return world.hosts.state

    world.hosts.update = overwritten  # type: ignore[method-assign]  # one test's Azure
    world.bind()
    first = await world.reconcile()
    assert first.again_after is not None
    assert first.again_after < 0.1
    assert world.statuses() == {"demo-default-demo": "Created"}, "not Assigned before it is attached"
    assert await world.reconcile() == PassResult()
    assert (world.hosts.state.type, world.attached(VM)) == (BOTH, {"demo"})
    assert world.statuses() == {"demo-default-demo": "Assigned"}


OBJECT = "demo-default-demo"


async def test_an_identity_that_another_program_attaches_later_is_not_reported(world: MicWorld) -> None:
    await world.assign()
    world.api.store.patch(ASSIGNED, OBJECT, {"metadata": {"finalizers": [FINALIZER, "example.com/it"]}}, "default")
    world.unbind()
    for _ in range(3):
        await world.reconcile()
    assert world.api.store.get(ASSIGNED, OBJECT, "default")["metadata"]["finalizers"] == ["example.com/it"]
    assert not world.hosts.state.attached

    world.hosts.state = host(USER, ["demo"])
    await world.look()
    assert world.hosts.state.attached, "not MIC's to take off"

    world.add(pod("demo", uid="second"))
    await world.reconcile()
    (fresh,) = [document for document in world.api.store.list(ASSIGNED) if document["metadata"]["name"] != OBJECT]
    assert fresh["metadata"]["annotations"]["aadpodidentity.k8s.io/attached-by"] == "foreign"


PAID = [PendingDetach(vm_id("n0"), identity_id(name)) for name in ("one", "two", "three")]
PENDING = PendingDetach(vm_id("elsewhere"), identity_id("four"))


def write_down(world: MicWorld, *pending_detaches: PendingDetach) -> None:
    annotations = {DETACH_PENDING_ANNOTATION: json.dumps(pending_detaches)}
    world.api.store.patch(ASSIGNED, OBJECT, {"metadata": {"annotations": annotations}}, "default")


async def look(world: MicWorld) -> None:
    world.view.wrote(await world.client.get(ASSIGNED_IDENTITIES, "default", OBJECT))


def pending(world: MicWorld) -> str:
    annotations = world.api.store.get(ASSIGNED, OBJECT, "default")["metadata"]["annotations"]
    return str(annotations.get(DETACH_PENDING_ANNOTATION, ""))


async def test_all_finished_detaches_are_removed_in_one_write(world: MicWorld) -> None:
    await world.assign()
    write_down(world, *PAID)
    await look(world)
    before = world.api.store.revision
    await world.reconcile()
    assert pending(world) == ""
    assert world.api.store.revision == before + 1


async def test_a_detach_recorded_in_the_meantime_is_kept(world: MicWorld) -> None:
    await world.assign()
    write_down(world, *PAID)
    await look(world)
    planned = world.view.existing(("default", OBJECT))
    assert planned is not None
    write_down(world, *PAID, PENDING)
    await look(world)
    metrics = MicMetrics(CollectorRegistry())
    writer = Writer(world.client, world.view, world.recorder, metrics, batch=1, per_second=100.0, burst=100.0)
    assert await writer.carry_out([CompleteDetaches(planned, frozenset(PAID))]) == Written(stale=True)
    assert json.loads(pending(world))[-1] == [*PENDING]
