"""Reconcile passes in which the API server rejects writes, or stores objects that MIC does not expect."""

from pathlib import Path

import pytest

from mic.reconciliation.host_reconciler import REFUSED_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.resources import ASSIGNED_IDENTITIES
from podidentity.telemetry.metrics import expose
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.cluster import binding, identity, pod
from tests.mic.emulated_cloud import ASSIGNED
from tests.mic.reconcile_bench import ReconcileBench


async def test_an_api_server_that_rejects_writes_is_retried_later(stage: ReconcileBench) -> None:
    stage.bind()

    def refuse(request: Recorded) -> StatusError | None:
        return StatusError(500, "InternalError", "no") if request.method == "POST" else None

    stage.api.intercept = refuse
    assert (await stage.reconcile()).failed
    assert "update" not in stage.hosts.calls, "no record, no change"
    page = expose(stage.registry).decode()
    assert (
        'aadpodidentity_kubernetes_api_operations_errors_count{operation_type="assigned_identity_addition"} 1.0' in page
    )
    stage.api.intercept = None
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}


@pytest.mark.parametrize("status", [403, 422, 500])
async def test_an_object_that_the_api_server_rejects_blocks_no_other(stage: ReconcileBench, status: int) -> None:
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    stage.bind("fine")
    stage.view.identities.upserted(None, identity("over-quota", namespace="team", namespaced=True))
    stage.view.bindings.upserted(None, binding("over-quota", namespace="team", identity="over-quota", selector="team"))
    stage.view.pods.upserted(None, pod("web", namespace="team", label="team"))
    stage.api.store.create("namespaces", {"metadata": {"name": "team"}})

    def refuse(request: Recorded) -> StatusError | None:
        theirs = request.method == "POST" and "/namespaces/team/azureassigned" in request.path
        return StatusError(status, "No", "exceeded quota") if theirs else None

    stage.api.intercept = refuse
    done = await stage.reconcile()
    assert stage.statuses() == {"fine-default-fine": "Assigned"}
    assert {key.rpartition("/")[2] for key in stage.hosts.state.attached} == {"fine"}
    if status == 500:
        assert done.failed
    else:
        assert done == PassResult(again_after=REFUSED_SECONDS), (
            "not failed, which would hold back the host's other events"
        )
        await stage.recorder.flushed()
        reported = {
            each["involvedObject"]["name"] for each in stage.api.store.list("events") if each["type"] == "Warning"
        }
        assert reported == {"over-quota", "web"}, "the binding and the pod"


async def test_an_object_that_the_watch_has_not_reported_is_found(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stored = await stage.client.get(ASSIGNED_IDENTITIES, "default", "demo-default-demo")
    stage.view.assigned.deleted(stored)
    assert (await stage.reconcile()).again_after is not None
    assert await stage.reconcile() == PassResult()
    assert len(stage.statuses()) == 1


async def test_an_object_deleted_by_another_writer_is_created_again(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.api.store.patch(ASSIGNED, "demo-default-demo", {"metadata": {"finalizers": None}}, "default")
    stage.api.store.delete(ASSIGNED, "demo-default-demo", "default")
    stage.view.pods.upserted(None, pod("demo", label="demo", uid="second"))
    for _ in range(3):
        await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}


async def test_an_unreadable_object_under_our_name_blocks_no_other(stage: ReconcileBench) -> None:
    ref = {"apiVersion": "a/v1", "kind": "AzureIdentity", "metadata": {"name": "x"}, "spec": {"type": "zero"}}
    stranger = {"metadata": {"name": "demo-default-demo", "namespace": "default"}, "spec": {"azureIdentityRef": ref}}
    stage.api.store.create(ASSIGNED, stranger | {"status": {"status": "Assigned"}})
    stage.bind()
    stage.bind("other")
    assert await stage.reconcile() == PassResult(again_after=REFUSED_SECONDS)
    assert stage.statuses() == {"demo-default-demo": "Assigned", "other-default-other": "Assigned"}
    assert await stage.warned() == ["AzureIdentityBinding demo", "Pod demo"]


async def test_a_foreign_object_under_our_name_is_not_changed(stage: ReconcileBench, tmp_path: Path) -> None:
    stage.api.store.create(
        ASSIGNED,
        {
            "metadata": {"name": "demo-default-demo", "namespace": "default"},
            "spec": {
                "pod": "other",
                "podNamespace": "else",
                "nodename": "elsewhere",
                "azureIdentityRef": {"apiVersion": "a/v1", "kind": "AzureIdentity", "metadata": {"name": "x"}},
                "azureBindingRef": {"apiVersion": "a/v1", "kind": "AzureIdentityBinding", "metadata": {"name": "x"}},
            },
            "status": {"status": "Assigned"},
        },
    )
    stage.bind()
    for _ in range(3):
        await stage.reconcile()
    assert len(stage.statuses()) == 2
    assert stage.api.store.get(ASSIGNED, "demo-default-demo", "default")["spec"]["pod"] == "other"
