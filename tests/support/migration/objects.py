"""Objects of the kinds that the migrations read, as the API server stores them and as the migrations decode them."""

from typing import Any, TypeVar

import msgspec

from podidctl.facts.workloads import CRON_JOBS, WorkloadObject
from podidctl.migration.workload_identity import WorkloadIdentityPlan, plan_workload_identity
from podidctl.migration.workloads import ServiceAccount, WorkloadState
from podidentity.kube.decoding import decode_object
from podidentity.resources import BINDINGS, EXCEPTIONS, IDENTITIES, Kind, Resource, ScheduledPod

ID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"


def stored(kind: Kind[Any], name: str, namespace: str, spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, **meta}
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec}


def identity(name: str = "demo", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    notes = spec.pop("annotations", {})
    usual = {"type": 0, "resourceID": ID + name, "clientID": f"client-{name}"}
    return stored(IDENTITIES, name, namespace, usual | spec, annotations=notes)


def binding(name: str = "demo", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return stored(BINDINGS, name, namespace, {"azureIdentity": name, "selector": name} | spec)


def exception(**labels: str) -> dict[str, Any]:
    return stored(EXCEPTIONS, "e", "shop", {"podLabels": labels})


R = TypeVar("R", bound=Resource)

BOUND = [identity(), binding()]


def template(label: str = "demo", account: str = "", **labels: str) -> dict[str, Any]:
    every = {**({"aadpodidbinding": label} if label else {}), **labels}
    spec = {"serviceAccountName": account} if account else {}
    return {"metadata": {"labels": every}, "spec": spec}


def owned(name: str, owner: str = "") -> dict[str, Any]:
    """Metadata in namespace shop; *owner* is `apiVersion kind name`."""
    meta: dict[str, Any] = {"name": name, "namespace": "shop"}
    if owner:
        version, kind, owners_name = owner.split()
        reference = {"apiVersion": version, "kind": kind, "name": owners_name, "controller": True}
        meta["ownerReferences"] = [reference]
    return meta


def workload(name: str = "web", owner: str = "", status: Any = None, **spec: Any) -> WorkloadObject:
    document = {"metadata": owned(name, owner), "spec": {"template": template(**spec)}, "status": status or {}}
    return msgspec.convert(document, WorkloadObject)


def cron_job(name: str = "nightly", **spec: Any) -> WorkloadObject:
    job = {"spec": {"template": template(**spec)}}
    return msgspec.convert({"metadata": owned(name), "spec": {"jobTemplate": job}}, WorkloadObject)


def pod(name: str = "web-1", owner: str = "", phase: str = "Running", **spec: Any) -> ScheduledPod:
    made = template(**spec)
    document = {"metadata": owned(name, owner) | made["metadata"], "spec": made["spec"], "status": {"phase": phase}}
    return msgspec.convert(document, ScheduledPod)


def account(name: str, client_id: str = "", **more: Any) -> ServiceAccount:
    notes = {"azure.workload.identity/client-id": client_id} if client_id else {}
    return msgspec.convert(
        {"metadata": {"name": name, "namespace": "shop", "annotations": notes}, **more}, ServiceAccount
    )


def situation(
    *workloads: WorkloadObject | tuple[str, WorkloadObject],
    objects: list[dict[str, Any]] | None = None,
    pods: list[ScheduledPod] | None = None,
    accounts: list[ServiceAccount] | None = None,
    force_namespaced: bool = False,
) -> WorkloadState:
    """A cluster with these; a workload is a Deployment unless its kind is given with it."""
    by_kind: dict[str, list[WorkloadObject]] = {}
    for item in workloads:
        kind, workload_ = item if isinstance(item, tuple) else ("Deployment", item)
        by_kind.setdefault(CRON_JOBS.name if workload_.spec.job_template else kind, []).append(workload_)
    return WorkloadState(
        identities=read(IDENTITIES, objects),
        bindings=read(BINDINGS, objects),
        objects=by_kind,
        pods=pods or [],
        accounts=accounts or [],
        force_namespaced=force_namespaced,
    )


def read(kind: Kind[R], documents: list[dict[str, Any]] | None) -> list[R]:
    """Return the objects of the kind among *documents*, by default among BOUND."""
    every = BOUND if documents is None else documents
    return [decode_object(kind, msgspec.json.encode(document)) for document in every if document["kind"] == kind.name]


def planned(
    *workloads: WorkloadObject | tuple[str, WorkloadObject], namespace: str = "", **more: Any
) -> WorkloadIdentityPlan:
    """The plan for a situation."""
    return plan_workload_identity(situation(*workloads, **more), namespace=namespace)
