"""Pending detaches of an AzureAssignedIdentity: MIC removes exactly the completed ones from its annotation."""

import json

from prometheus_client import CollectorRegistry

from mic.decisions.assignments import DETACH_PENDING_ANNOTATION, PendingDetach
from mic.decisions.steps import CompleteDetaches
from mic.metrics import MicMetrics
from mic.reconciliation.writer import Writer, Written
from podidentity.resources import ASSIGNED_IDENTITIES
from tests.mic.cluster import identity_id, vm_id
from tests.mic.emulated_cloud import ASSIGNED
from tests.mic.reconcile_bench import ReconcileBench, reconcile_bench

OBJECT = "demo-default-demo"
PAID = [PendingDetach(vm_id("n0"), identity_id(name)) for name in ("one", "two", "three")]
PENDING = PendingDetach(vm_id("elsewhere"), identity_id("four"))


def write_down(stage: ReconcileBench, *pending_detaches: PendingDetach) -> None:
    annotations = {DETACH_PENDING_ANNOTATION: json.dumps(pending_detaches)}
    stage.api.store.patch(ASSIGNED, OBJECT, {"metadata": {"annotations": annotations}}, "default")


async def look(stage: ReconcileBench) -> None:
    stage.view.wrote(await stage.client.get(ASSIGNED_IDENTITIES, "default", OBJECT))


def owed(stage: ReconcileBench) -> str:
    annotations = stage.api.store.get(ASSIGNED, OBJECT, "default")["metadata"]["annotations"]
    return str(annotations.get(DETACH_PENDING_ANNOTATION, ""))


async def test_all_finished_detaches_are_removed_in_one_write() -> None:
    async with reconcile_bench() as stage:
        stage.bind()
        await stage.reconcile()
        write_down(stage, *PAID)
        await look(stage)
        before = stage.api.store.revision
        await stage.reconcile()
        assert owed(stage) == ""
        assert stage.api.store.revision == before + 1


async def test_a_detach_recorded_in_the_meantime_is_kept() -> None:
    async with reconcile_bench() as stage:
        stage.bind()
        await stage.reconcile()
        write_down(stage, *PAID)
        await look(stage)
        planned = stage.view.existing(("default", OBJECT))
        assert planned is not None
        write_down(stage, *PAID, PENDING)
        await look(stage)
        metrics = MicMetrics(CollectorRegistry())
        writer = Writer(stage.client, stage.view, stage.recorder, metrics, batch=1, per_second=100.0, burst=100.0)
        assert await writer.carry_out([CompleteDetaches(planned, frozenset(PAID))]) == Written(stale=True)
        assert json.loads(owed(stage))[-1] == [*PENDING]
