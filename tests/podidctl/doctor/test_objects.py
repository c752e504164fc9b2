"""Bindings, identities, exceptions, assignments: each fault is reported with its objects' names, and its neighbour is
not.
"""

from typing import Any

import msgspec
import pytest

from mic.decisions.client_ids import of_cluster
from mic.decisions.policy import Policy
from podidctl.diagnosis.input import ReadFailure
from podidctl.diagnosis.node_placement import PlacedNode
from podidctl.doctor.schema import Level
from podidentity.resources import AzureIdentitySpec, SecretReference
from tests.podidctl.doctor_inputs import bad, examined, mic, nmi, objects, one
from tests.support.nmi_objects import assigned_identity, binding, exception, identity, pod

MALFORMED = msgspec.structs.replace(identity(), spec=AzureIdentitySpec(type=0, resource_id="/typo"))
SAID = {"aadpodidentity.k8s.io/message": "grant MIC the role"}
BARE = PlacedNode(metadata=objects().nodes[0].metadata)


def test_a_healthy_installation_has_no_finding() -> None:
    report = examined()
    assert bad(report) == []
    assert not report.anything
    assert not report.unknown


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({"identities": (), "assigned": ()}, Level.PROBLEM, "AzureIdentityBinding ns/b (1 pod): there is no AzureId"),
        ({"identities": (MALFORMED,)}, Level.PROBLEM, "AzureIdentity ns/id (1 pod): spec.resourceID '/typo'"),
        ({"nodes": (BARE,)}, Level.PROBLEM, "Node node-1 (1 pod): it has no providerID"),
        ({"bindings": (binding(), binding("idle", selector="none"))}, Level.WARNING, "ns/idle ('none')"),
        ({"pods": (pod(), pod("lost", label="none"))}, Level.PROBLEM, "ns/lost ('none')"),
        ({"bindings": (binding(), binding("twin"))}, Level.WARNING, "duplicate bindings: ns/b, ns/twin"),
        (
            {"identities": (identity(), msgspec.structs.replace(identity("twin"), spec=identity().spec))},
            Level.WARNING,
            "duplicate identities: ns/id, ns/twin",
        ),
        ({"assigned": (assigned_identity(status="Created"),)}, Level.WARNING, "1 identity is Created and not Assigned"),
        (
            {"assigned": (assigned_identity(status="Created", own_annotations=SAID),)},
            Level.PROBLEM,
            "default/web-ns-id: grant MIC the role",
        ),
        ({"pods": (pod(host_network=True),)}, Level.PROBLEM, "ns/web"),
        (
            {"pods": (pod(labels={"app": "x"}),), "exceptions": (exception(labels={"app": "X"}),)},
            Level.WARNING,
            "under an exception, which takes precedence: ns/web",
        ),
    ],
)
def test_a_fault_is_reported_with_its_objects(changes: dict[str, Any], level: Level, says: str) -> None:
    line = one(examined(objects=objects(**changes)))
    assert line.level is level
    assert says in line.says


@pytest.mark.parametrize(
    "changes",
    [
        {
            "pods": (pod(), pod("other", uid="uid-2", namespace="far", label="far")),
            "bindings": (binding(), binding(selector="far", namespace="far")),
            "identities": (identity(), identity(namespace="far")),
            "assigned": (
                assigned_identity(),
                assigned_identity(namespace="far", selector="far", pod_name="other", pod_namespace="far"),
            ),
        },
        {"pods": (pod(), pod("done", label="none", phase="Succeeded"))},
        {"assigned": (assigned_identity(), assigned_identity("two", status="Created", deleting=True))},
        {"assigned": (assigned_identity(pod_uid="uid-0"), assigned_identity(pod_uid="uid-1"))},
        {"pods": (pod(), pod("ending", uid="uid-2", deleting=True))},
        {"pods": (pod(labels={"app": "y"}),), "exceptions": (exception(labels={"app": "x"}),)},
        {"pods": (pod(labels={"app": "x"}),), "exceptions": (exception(labels={"app": "x"}, namespace="far"),)},
    ],
    ids=["other-namespace", "finished", "being-removed", "renewed", "ending", "other-label", "foreign-exception"],
)
def test_a_state_that_only_resembles_a_fault_is_not_reported(changes: dict[str, Any]) -> None:
    assert bad(examined(objects=objects(**changes))) == []


@pytest.mark.parametrize(
    ("assigned", "why"),
    [
        ((), "there is no AzureAssignedIdentity"),
        ((assigned_identity(status="Unassigned"),), "its AzureAssignedIdentity has status Unassigned"),
        ((assigned_identity(pod_uid="uid-0"),), "for an earlier pod of this name"),
        ((assigned_identity(nodename="node-2"),), "for another node"),
        ((assigned_identity(deleting=True),), "there is no AzureAssignedIdentity"),
    ],
)
def test_an_identity_that_a_pod_needs_and_does_not_have_is_a_problem(assigned: Any, why: str) -> None:
    line = one(examined(objects=objects(assigned=assigned)))
    assert (line.check, line.level) == ("assignments", Level.PROBLEM)
    assert f"({why}" in line.says or why in line.says
    assert "ns/web (ns/id)" in line.says


@pytest.mark.parametrize("how", ["managed", "flag", "annotation"])
def test_a_pod_selected_only_by_a_binding_of_another_namespace_is_a_problem(how: str) -> None:
    annotations = {"aadpodidentity.k8s.io/Behavior": "namespaced"} if how == "annotation" else None
    flags = {"managed": ("--operation-mode=managed", "--forceNamespaced"), "flag": ("--forceNamespaced",)}.get(how, ())
    far = objects(
        bindings=(binding(namespace="far"),),
        identities=(identity(namespace="far", annotations=annotations),),
        assigned=(),
    )
    mics = () if how == "managed" else (mic(*flags),)
    line = one(examined(objects=far, nmi=(nmi(*flags),), mic=mics, **({"locks": ()} if how == "managed" else {})))
    assert (line.check, line.level) == ("selectors", Level.PROBLEM)
    assert "only bindings of other namespaces select" in line.says


def test_in_managed_mode_no_assignment_is_required() -> None:
    managed = nmi("--operation-mode=managed", "--forceNamespaced")
    assert bad(examined(objects=objects(assigned=()), nmi=(managed,), mic=(), locks=())) == []


def test_exceptions_that_nmi_does_not_count_exempt_no_pod() -> None:
    matching = {"pods": (pod(labels={"app": "x"}),)}
    counted_elsewhere = nmi("--exception-namespaces=kube-system")
    report = examined(
        objects=objects(**matching, exceptions=(exception(labels={"app": "x"}),)), nmi=(counted_elsewhere,)
    )
    assert bad(report) == []
    deleted = exception(labels={"app": "x"}, deleting=True)
    assert bad(examined(objects=objects(**matching, exceptions=(deleted,)))) == []


def test_a_service_principal_whose_endpoint_nmi_does_not_permit_is_reported_by_nmis_flags() -> None:
    spec = AzureIdentitySpec(
        type=1, client_id="c", tenant_id="t", client_password=SecretReference(name="s", namespace="far")
    )
    there = objects(identities=(msgspec.structs.replace(identity(), spec=spec),))
    line = one(examined(objects=there))
    assert (line.check, line.level) == ("unusable", Level.PROBLEM)
    assert "ns/id (1 pod): This identity names a Secret of another namespace" in line.says
    assert "--allow-cross-namespace-secrets" in line.next
    assert bad(examined(objects=there, nmi=(nmi("--allow-cross-namespace-secrets"),))) == []


def test_many_names_are_truncated_and_counted() -> None:
    idle = tuple(binding(f"idle-{number}", selector=f"none-{number}") for number in range(30))
    assert "and 25 more" in one(examined(objects=objects(bindings=(binding(), *idle)))).says


def test_forbidden_objects_are_unknown_and_not_ok() -> None:
    report = examined(objects=ReadFailure("not allowed: nodes"))
    assert {each.check: each.level for each in bad(report)} == {"NMI": Level.UNKNOWN, "objects": Level.UNKNOWN}
    assert (report.unknown, report.anything) == (True, False)


def test_text_of_an_objects_author_cannot_control_the_terminal() -> None:
    evil = binding("b", selector="\x1b]0;x\x07eyJhbGciOiJSUzI1NiJ9.eyJhIjoxfQ.c2lnbmF0dXJl")
    document = msgspec.json.encode(examined(objects=objects(bindings=(binding(), evil)))).decode()
    assert "\\u001b" not in document
    assert "eyJhbGci" not in document


@pytest.mark.parametrize(("groups", "count"), [("other", 1), ("s/g", 0), ("", 0)])
def test_a_node_whose_group_mic_may_not_change_is_reported(groups: str, count: int) -> None:
    findings = bad(examined(mic=(mic(f"--allowed-resource-groups={groups}"),)))
    assert [(each.check, each.level) for each in findings] == [("unusable", Level.PROBLEM)] * count
    for each in findings:
        assert "Node node-1 (1 pod): --allowed-resource-groups does not name the resource group" in each.says
        assert "--allowed-resource-groups" in each.next


def test_the_reason_why_the_clusters_own_identity_is_not_assigned_is_reported() -> None:
    desired_identity = assigned_identity().spec.azure_identity_ref
    why = of_cluster(desired_identity, "key", Policy(own=frozenset({"key"})))
    said = {"aadpodidentity.k8s.io/message": why}
    line = one(examined(objects=objects(assigned=(assigned_identity(status="Created", own_annotations=said),))))
    assert line.level is Level.PROBLEM
    assert why in line.says
