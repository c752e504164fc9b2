"""State of a healthy installation for the doctor, and the changes of a test."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from mic.startup.object_upgrade import KINDS
from podidctl.checks.rules import report
from podidctl.evaluation.cluster import ClusterCase
from podidctl.facts.kinds import (
    Daemon,
    Definition,
    DefinitionSpec,
    DefinitionStatus,
    PlacedNode,
    PlacedNodeSpec,
    Version,
)
from podidctl.facts.model import AzureState, Facts, Locks, ReadFailure, ServerState
from podidctl.report.documents import CheckResult, Report
from podidctl.report.finding import Level
from podidentity.kube.lock_records import LockRecord
from podidentity.resources import BareMeta
from tests.support.nmi_objects import NODE, assigned_identity, binding, identity, pod
from tests.support.podidctl.prediction_inputs import VM

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
KEEPS = {"openAPIV3Schema": {"properties": {"spec": {"x-kubernetes-preserve-unknown-fields": True}}}}


def definition(*, preserve_unknown_fields: bool = False, **changes: Any) -> Definition:
    usual: dict[str, Any] = {"name": "v1", "served": True, "storage": True, "schema": KEEPS}
    version = Version(**(usual | changes))
    spec = DefinitionSpec(versions=[version], preserve_unknown_fields=preserve_unknown_fields)
    return Definition(spec=spec, status=DefinitionStatus(stored_versions=["v1"]))


def daemon(program: str, name: str, *args: str, node: str = NODE, ready: bool = True, **more: Any) -> Daemon:
    """A pod of *program*, in kube-system unless *more* says otherwise."""
    variable = {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    image = more.pop("image", f"registry/{program}:1")
    owner = {"kind": "ReplicaSet" if program == "mic" else "DaemonSet", "name": program, "controller": True}
    document = {
        "metadata": {
            "name": name,
            "namespace": more.pop("namespace", "kube-system"),
            "labels": {"component": program},
            "ownerReferences": [] if more.pop("alone", False) else [owner],
        },
        "spec": {
            "nodeName": node,
            "hostNetwork": more.pop("host_network", False),
            "containers": [{"name": program, "image": image, "args": list(args), "env": [variable]}],
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }
    return msgspec.convert(document, Daemon)


def nmi(*args: str, name: str = "nmi-1", **more: Any) -> Daemon:
    return daemon(
        "nmi", name, "--node=$(NODE_NAME)", "--MICNamespace=kube-system", *args, **({"host_network": True} | more)
    )


def mic(*args: str, name: str = "mic-1", **more: Any) -> Daemon:
    return daemon("mic", name, *args, **more)


def node(name: str = NODE, **labels: str) -> PlacedNode:
    meta = BareMeta(name=name, labels={key.replace("__", "."): value for key, value in labels.items()})
    return PlacedNode(metadata=meta, spec=PlacedNodeSpec(provider_id=f"azure://{VM}"))


def lock_record(holder: str = "mic-1", renewed: str = "2026-01-01T11:59:55.000000Z") -> LockRecord:
    return LockRecord(holder, 15.0, renewed)


def objects(**changes: Any) -> Facts:
    usual: dict[str, Any] = {
        "identities": (identity(),),
        "bindings": (binding(),),
        "assigned": (assigned_identity(),),
        "pods": (pod(),),
        "nodes": (node(),),
    }
    return Facts(**(usual | changes))


def seen(**changes: Any) -> Facts:
    """The facts; *changes* are fields of them, `objects` (facts, or why they could not be read), and `azure`, the
    responses by host.
    """
    there: Facts | ReadFailure = changes.pop("objects", objects())
    if isinstance(there, ReadFailure):
        there = Facts(unread={"nodes": there})
    if changes.get("azure") is not None:
        changes["azure"] = AzureState(changes["azure"])
    usual: dict[str, Any] = {
        "now": NOW,
        "server": ServerState("v1.31.0", 0.2, 0.6),
        "definitions": {kind.plural: definition() for kind in KINDS},
        "nmi": (nmi(),),
        "mic": (mic(),),
        "locks": (Locks("default", "aad-pod-identity-mic", lock_record()),),
    }
    return replace(there, **(usual | changes))


def cluster_case(**changes: Any) -> ClusterCase:
    return ClusterCase(seen(**changes))


def examined(**changes: Any) -> Report:
    return report(seen(**changes))


def bad(report: Report) -> list[CheckResult]:
    """Return the findings that are not ok; each one except unknown states the next action."""
    lines = [finding for finding in report.findings if finding.level is not Level.OK]
    assert all(finding.next for finding in lines if finding.level is not Level.UNKNOWN)
    return lines


def one(report: Report) -> CheckResult:
    (line,) = bad(report)
    return line
