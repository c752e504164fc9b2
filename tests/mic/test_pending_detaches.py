"""Pending detaches of an AzureAssignedIdentity: MIC removes exactly the completed ones from its annotation."""

import json

from prometheus_client import CollectorRegistry

from mic.decisions.assignments import DETACH_PENDING_ANNOTATION, PendingDetach
from mic.decisions.steps import CompleteDetaches
from mic.metrics import MicMetrics
from mic.reconciliation.writer import Writer, Written
from podidentity.resources import ASSIGNED_IDENTITIES
from tests.support.mic import ASSIGNED, MicWorld
from tests.support.objects import identity_id, vm_id

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


async def test_all_finished_detaches_are_removed_in_one_write() -> None:
    async with MicWorld() as world:
        world.bind()
        await world.reconcile()
        write_down(world, *PAID)
        await look(world)
        before = world.api.store.revision
        await world.reconcile()
        assert owed(world) == ""
        assert world.api.store.revision == before + 1


async def test_a_detach_recorded_in_the_meantime_is_kept() -> None:
    async with MicWorld() as world:
        world.bind()
        await world.reconcile()
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
