"""Another client changes the host between MIC's GET and PATCH, with and without etags."""

from collections.abc import Callable, Iterable

import pytest

from mic.azure.identities import BOTH, SYSTEM, USER, Attached, HostIdentities
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.machines import SYSTEM as OWN
from podidentity_sandbox.machines import USER as USERS
from tests.mic.emulated_cloud import ASSIGNED, EmulatedCloud
from tests.support.mic import MicWorld
from tests.support.objects import identity_id, set_id


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


def names(world: MicWorld) -> set[str]:
    return {each.text.rpartition("/")[2] for each in world.hosts.state.attached.values()}


@pytest.mark.parametrize("etag", ["", '"2"'], ids=["no-etags", "etags"])
async def test_a_system_assigned_identity_added_concurrently_survives_our_first_attach(
    world: MicWorld, etag: str
) -> None:
    world.hosts.state = host("None", etag=etag and '"1"')
    another_writer_acts(world, lambda _seen: host(SYSTEM, etag=etag))
    world.bind()
    assert await world.reconcile() == PassResult()
    assert (world.hosts.state.type, names(world)) == (BOTH, {"demo"})
    assert len(world.changes) == (2 if etag else 1)


@pytest.mark.parametrize("etag", ["", '"2"'], ids=["no-etags", "etags"])
@pytest.mark.parametrize("type_", [USER, BOTH])
async def test_an_identity_added_concurrently_survives_our_last_detach(world: MicWorld, etag: str, type_: str) -> None:
    world.hosts.state = host("None" if type_ == USER else SYSTEM, etag=etag and '"1"')
    world.bind()
    await world.reconcile()
    assert world.hosts.state.type == type_
    world.unbind()
    another_writer_acts(world, lambda _seen: host(type_, ["demo", "theirs"], etag))
    assert await world.reconcile() == PassResult()
    assert (world.hosts.state.type, names(world)) == (type_, {"theirs"})


async def test_an_update_that_keeps_the_type_requires_no_second_read(world: MicWorld) -> None:
    world.hosts.state = host(USER, ["theirs"])
    world.bind()
    await world.reconcile()
    assert world.hosts.calls == ["get", "update"]


async def test_our_identity_detached_by_a_second_writer_is_attached_again_immediately(world: MicWorld) -> None:
    """The second writer read the host before MIC. Its type without user-assigned identities removes MIC's."""
    world.hosts.state = host("None")
    update = type(world.hosts).update

    async def overwritten(on: Host, change: object) -> HostIdentities:
        if not world.changes:
            await update(world.hosts, on, change)  # type: ignore[arg-type]  # passed through
            world.hosts.state = host(SYSTEM)
            return world.hosts.state
        return await update(world.hosts, on, change)  # type: ignore[arg-type]  # passed through

    world.hosts.update = overwritten  # type: ignore[method-assign, assignment]  # one test's Azure
    world.bind()
    first = await world.reconcile()
    assert first.again_after is not None
    assert first.again_after < 0.1
    assert world.statuses() == {"demo-default-demo": "Created"}, "not Assigned before it is attached"
    assert await world.reconcile() == PassResult()
    assert (world.hosts.state.type, names(world)) == (BOTH, {"demo"})
    assert world.statuses() == {"demo-default-demo": "Assigned"}


@pytest.mark.parametrize("etags", [True, False])
async def test_the_real_program_keeps_a_concurrently_added_system_assigned_identity(
    cloud: EmulatedCloud, etags: bool
) -> None:
    cloud.arm.etags = etags
    cloud.node("s0", f"azure://{set_id()}/virtualMachines/0")
    cloud.identity()
    own = cloud.directory.add_identity(identity_id("own"))
    machine = cloud.arm.vm(set_id())

    def before_patch(request: Recorded) -> None:
        if request.method == "POST" and "azureassignedidentities" in request.path and not machine.types:
            machine.enable_system(own)  # MIC has read the host, and writes its object next

    cloud.api.intercept = before_patch
    await cloud.mic()
    cloud.pod("web", "s0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert machine.types == {OWN, USERS}
    assert cloud.on(set_id()) == {"demo"}
    conflicts = [call for call in cloud.arm.writes() if call.status == 412]
    assert len(conflicts) == (1 if etags else 0)
    cloud.remove_pod("web")
    await cloud.until(lambda: not cloud.api.store.list(ASSIGNED))
    assert machine.types == {OWN}
