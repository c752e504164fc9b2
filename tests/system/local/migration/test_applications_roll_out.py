"""Changes of an application for workload identity, undone if the application does not become available."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podidctl.commands.connection import ClusterSettings
from podidctl.migration.federation.applications import cluster_remarks, plan_applications
from podidctl.migration.federation.changes import Rollout, is_rolled_out
from podidctl.migration.federation.planning_input import PlanOptions
from podidctl.migration.federation.runs import MigrationRun
from podidctl.migration.federation.schema import ApplicationState
from podidentity.azure.clouds import PUBLIC
from podidentity.azure.federation import Exchange
from podidentity.exits import StartError
from tests.support.migration.federation_sandbox import FEDERATING, TENANT, Federation, cluster, federation
from tests.support.migration.objects import account, binding, cron_job, identity, pod, workload

FEDERATED = [identity(type=3, tenantID=TENANT), binding()]
USE = {"azure.workload.identity/use": "true"}


def states(*workloads: Any, objects: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, ApplicationState]:
    objects = FEDERATED if objects is None else objects
    accounts = [account("web"), account("default"), account("done", "client-demo")]
    return {
        step.description: step.state
        for step in plan_applications(cluster(*workloads, objects=objects, accounts=accounts, **more))
    }


def test_an_application_with_its_own_service_account_is_migrated_and_waits_for_its_identity() -> None:
    (made,) = plan_applications(cluster(workload(account="web"), objects=FEDERATED, accounts=[account("web")]))
    assert made.state is ApplicationState.TO_DO
    assert (made.account, made.client_id, made.tenant_id) == ("web", "client-demo", TENANT)
    by_name = states(workload(account="web"), objects=[identity(), binding()])
    assert by_name == {"Deployment shop/web": ApplicationState.WAITS_FOR_IDENTITY}


@pytest.mark.parametrize(
    ("workloads", "state"),
    [
        ([workload(account="default")], ApplicationState.MANUAL),
        ([workload(account="web"), workload("other", account="web", label="")], ApplicationState.MANUAL),
        ([workload(account="web", owner="example.org/v1 Operator web")], ApplicationState.MANUAL),
        ([workload(account="done", **USE)], ApplicationState.DONE),
        ([cron_job("web", account="web")], ApplicationState.TO_DO),
    ],
)
def test_an_application_with_a_shared_service_account_requires_manual_work(
    workloads: list[Any], state: ApplicationState
) -> None:
    by_name = states(*workloads)
    assert [value for name, value in by_name.items() if name.endswith("shop/web")] == [state]


def test_manual_work_is_reported_with_the_reason_and_the_next_action() -> None:
    assert states(pods=[pod("web", account="web")]) == {"Pod shop/web": ApplicationState.MANUAL}
    strange = workload(account="web", owner="example.org/v1 Operator web")
    made = cluster(strange, cron_job(account="default"), pods=[pod(account="web")], objects=FEDERATED)
    for step in plan_applications(made):
        assert [remark.blocks for remark in step.remarks] == [True]
        assert all(remark.why and remark.do for remark in step.remarks)


def test_an_identity_with_identity_bindings_may_have_no_credential_for_the_sdk() -> None:
    bound = msgspec.structs.replace(FEDERATING, federated_exchange=Exchange.IDENTITY_BINDINGS)
    made = cluster(workload(account="web"), objects=FEDERATED, accounts=[account("web")], nmis=(bound,))
    (application,) = plan_applications(made)
    assert application.state is ApplicationState.MANUAL
    (remark,) = application.remarks
    assert "podidctl migrate plan -o az --exchange direct shop/demo" in remark.do
    (application,) = plan_applications(replace(made, options=PlanOptions(PUBLIC, exchange=Exchange.DIRECT)))
    assert (application.state, application.remarks) == (ApplicationState.TO_DO, [])


def test_without_the_webhook_nothing_is_changed() -> None:
    assert [remark.blocks for remark in cluster_remarks(cluster(webhook=False))] == [True]
    assert [remark.blocks for remark in cluster_remarks(cluster(webhook=None))] == [False]
    assert cluster_remarks(cluster(webhook=True)) == []


AVAILABLE = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}


@pytest.mark.parametrize(
    ("kind", "replicas", "status", "is_out"),
    [
        ("CronJob", None, {}, True),
        ("Deployment", 0, {}, True),
        ("Deployment", 0, {"observedGeneration": 1}, False),
        ("Deployment", None, {"replicas": 1, "updatedReplicas": 1}, False),
        ("Deployment", None, AVAILABLE, True),
        ("Deployment", None, {"replicas": 2, "updatedReplicas": 1, "availableReplicas": 2}, False),
        ("StatefulSet", 2, {"updatedReplicas": 1, "readyReplicas": 2}, False),
        ("StatefulSet", 2, {"updatedReplicas": 2, "readyReplicas": 2}, True),
        ("DaemonSet", None, {"desiredNumberScheduled": 2, "updatedNumberScheduled": 1}, False),
        ("DaemonSet", None, {"desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1}, True),
    ],
)
def test_an_application_is_rolled_out_when_all_replicas_are_new_and_available(
    kind: str, replicas: int | None, status: dict[str, int], is_out: bool
) -> None:
    spec = {} if replicas is None else {"replicas": replicas}
    document = {"metadata": {"generation": 2}, "spec": spec, "status": {"observedGeneration": 2} | status}
    assert is_rolled_out(kind, msgspec.convert(document, Rollout)) is is_out


def test_applications_are_selected_by_name_or_namespace() -> None:
    def selected(*names: str, namespace: str = "") -> list[int]:
        settings = ClusterSettings(namespace="default", request_seconds=1)
        run = MigrationRun(settings=settings, options=PlanOptions(PUBLIC), names=names, namespace=namespace)
        return run.select([("a/x", 1), ("b/x", 2), ("default/y", 3)])

    assert selected() == [1, 2, 3]
    assert selected(namespace="b") == [2]
    assert selected("b/x", "y") == [2, 3]
    assert selected("x", namespace="a") == [1]
    with pytest.raises(StartError, match="AzureIdentity b/missing: podidctl migrate plan"):
        selected("a/x", "b/missing")


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Federation]:
    """A federated identity, and a Deployment that nothing ever rolls out."""
    async with federation(tmp_path) as made:
        made.cloud.identity(type=3, tenantID=TENANT)
        made.account("web")
        made.workload(replicas=1)
        yield made


async def test_an_application_that_does_not_become_available_gets_its_template_back(cloud: Federation) -> None:
    before = cloud.store.get("deployments.apps", "web", "default")
    answer = await cloud.migrate("apply", "--yes", "--workload-identity", "--timeout=1", "-o", "json")
    (outcome,) = answer.document["outcomes"]
    assert (answer.code, outcome["ending"]) == (3, "taken back")
    assert "were not all updated and available within 1 s" in outcome["why"]
    after = cloud.store.get("deployments.apps", "web", "default")
    assert (after["spec"], after["metadata"].get("annotations") or {}) == (before["spec"], {})
    marked = cloud.store.get("serviceaccounts", "web", "default")["metadata"]["annotations"]
    assert marked["azure.workload.identity/client-id"] == "client-demo"

    back = await cloud.migrate("rollback", "--yes", "--workload-identity", "default/demo", "-o", "json")
    assert [outcome["about"] for outcome in back.document["outcomes"]] == ["ServiceAccount default/web"]
    assert not cloud.store.get("serviceaccounts", "web", "default")["metadata"].get("annotations")


async def test_a_label_that_has_to_stay_keeps_its_service_account(cloud: Federation) -> None:
    deployment = {"metadata": {"annotations": {"aadpodidentity.k8s.io/workload-identity": "nonsense"}}}
    await cloud.migrate("apply", "--yes", "--workload-identity", "--timeout=1")
    cloud.store.patch("deployments.apps", "web", deployment, "default")
    back = await cloud.migrate("rollback", "--yes", "--workload-identity", "-o", "json")
    assert back.code == 3
    assert [(outcome["about"], outcome["ending"]) for outcome in back.document["outcomes"]] == [
        ("Deployment default/web", "left as it was"),
        ("ServiceAccount default/web", "left as it was"),
    ]


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", "/serviceaccounts/web"), ("PATCH", "/deployments/web"), ("GET", "/deployments/web")],
    ids=["at the service account", "at the label", "while it rolls out"],
)
async def test_an_interrupt_at_any_step_can_be_undone_completely(cloud: Federation, method: str, path: str) -> None:
    written_objects = (("serviceaccounts", "web"), ("deployments.apps", "web"))
    before = [written(cloud.store.get(kind, name, "default")) for kind, name in written_objects]
    assert await cloud.interrupted(method, path, "apply", "--yes", "--workload-identity") == 130
    plan = await cloud.migrate("plan", "--workload-identity", "-o", "json", "default/demo")
    assert [application["name"] for application in plan.document["applications"]] == ["web"]
    assert (await cloud.migrate("rollback", "--yes", "--workload-identity")).code == 0
    assert [written(cloud.store.get(kind, name, "default")) for kind, name in written_objects] == before


def written(document: dict[str, Any]) -> Any:
    """What people write of it."""
    return document["metadata"].get("annotations") or {}, document.get("spec")
