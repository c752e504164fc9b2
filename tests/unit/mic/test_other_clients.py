"""Other clients change the host between GET and PATCH, keep an object by a finalizer, or record pending detaches."""

import json
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import CollectorRegistry

from mic.azure.identities import BOTH, SYSTEM, USER, Attached, Change, HostIdentities
from mic.decisions.assignments import DETACH_PENDING_ANNOTATION, PendingDetach
from mic.decisions.steps import CompleteDetaches
from mic.metrics import MicMetrics
from mic.reconciliation.work_queue import PassResult
from mic.reconciliation.writer import Writer, Written
from podidentity.azure.resource_ids import Host
from podidentity.resources import ASSIGNED_IDENTITIES, FINALIZER
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import identity_id, pod, vm_id


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
    return HostIdentities(type=type_, attached={each.lower(): Attached(each) for each in ids}, etag=etag)


@pytest.mark.parametrize("etag", ["", '"2"'], ids=["no-etags", "etags"])
async def test_a_system_assigned_identity_added_concurrently_survives_our_first_attach(
    world: MicWorld, etag: str
) -> None:
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
    (fresh,) = [each for each in world.api.store.list(ASSIGNED) if each["metadata"]["name"] != OBJECT]
    assert fresh["metadata"]["annotations"]["aadpodidentity.k8s.io/attached-by"] == "foreign"


OBJECT = "demo-default-demo"
PAID = [PendingDetach(vm_id("n0"), identity_id(name)) for name in ("one", "two", "three")]
PENDING = PendingDetach(vm_id("elsewhere"), identity_id("four"))


def write_down(world: MicWorld, *pending_detaches: PendingDetach) -> None:
    annotations = {DETACH_PENDING_ANNOTATION: json.dumps(pending_detaches)}
    world.api.store.patch(ASSIGNED, OBJECT, {"metadata": {"annotations": annotations}}, "default")


async def look(world: MicWorld) -> None:
    world.view.wrote(await world.client.get(ASSIGNED_IDENTITIES, "default", OBJECT))


def owed(world: MicWorld) -> str:
    annotations = world.api.store.get(ASSIGNED, OBJECT, "default")["metadata"]["annotations"]
    return str(annotations.get(DETACH_PENDING_ANNOTATION, ""))


async def test_all_finished_detaches_are_removed_in_one_write(world: MicWorld) -> None:
    await world.assign()
    write_down(world, *PAID)
    await look(world)
    before = world.api.store.revision
    await world.reconcile()
    assert owed(world) == ""
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
    assert json.loads(owed(world))[-1] == [*PENDING]
