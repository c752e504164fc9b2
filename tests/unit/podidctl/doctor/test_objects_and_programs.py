"""Faults of objects and programs are reported with their names; their neighbours and recent work are not. The rights
that doctor checks are those that the chart grants (tests/support/rights.py: the programs use all).
"""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from mic.decisions.client_ids import of_cluster
from mic.decisions.policy import Policy
from podidctl.checks.assignments import GRACE_SECONDS
from podidctl.evaluation.rights import mic_rights, nmi_rights, upgrade_rights
from podidctl.facts.kinds import DaemonVolume, DatedCondition, DatedMeta, DatedPod, DatedStatus, HostPath, PlacedNode
from podidctl.facts.model import Facts, ObjectReference, ReadFailure, ServerState
from podidctl.facts.model import Right as Checked
from podidctl.reading.objects import creation_time
from podidctl.report.documents import Report
from podidctl.report.finding import Level, exit_code
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, PODS, AzureIdentitySpec, SecretReference
from tests.support.nmi_objects import assigned_identity, binding, exception, identity, pod
from tests.support.podidctl.doctor_inputs import NOW, bad, examined, mic, nmi, node, objects, one
from tests.support.rights import Right, granted

MALFORMED = msgspec.structs.replace(identity(), spec=AzureIdentitySpec(type=0, resource_id="/typo"))
SAID = {"aadpodidentity.k8s.io/message": "grant MIC the role"}
BARE = PlacedNode(metadata=objects().nodes[0].metadata)


def test_a_healthy_installation_has_no_finding() -> None:
    report = examined()
    assert bad(report) == []
    assert exit_code(finding.level for finding in report.findings) == 0
    managed = nmi("--operation-mode=managed", "--forceNamespaced")
    assert bad(examined(objects=objects(assigned=()), nmi=(managed,), mic=(), locks=())) == []
    assert bad(examined(nmi=(nmi("--forceNamespaced"),), mic=(mic("--forceNamespaced"),))) == []
    assert bad(examined(mic=(mic(alone=True, host_network=True),))) == []
    own = nmi("--redirect=cilium", host_network=False)
    of_node = msgspec.structs.replace(own.spec, volumes=[DaemonVolume(host_path=HostPath("/etc/default/kubelet"))])
    assert bad(examined(nmi=(msgspec.structs.replace(own, spec=of_node),))) == []
    covers = exception(labels={"component": "mic"}, namespace="kube-system")
    report = examined(nmi=(nmi("--MICNamespace=default"),), objects=objects(exceptions=(covers,)))
    assert bad(report) == []


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
    ("assigned", "reason"),
    [
        ((), "there is no AzureAssignedIdentity"),
        ((assigned_identity(status="Unassigned"),), "its AzureAssignedIdentity has status Unassigned"),
        ((assigned_identity(pod_uid="uid-0"),), "for an earlier pod of this name"),
        ((assigned_identity(nodename="node-2"),), "for another node"),
        ((assigned_identity(deleting=True),), "there is no AzureAssignedIdentity"),
    ],
)
def test_an_identity_that_a_pod_needs_and_does_not_have_is_a_problem(assigned: Any, reason: str) -> None:
    line = one(examined(objects=objects(assigned=assigned)))
    assert (line.check, line.level) == ("assignments", Level.PROBLEM)
    assert f"({reason}" in line.says or reason in line.says
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


def test_exceptions_that_nmi_does_not_count_exempt_neither_a_pod_nor_mic() -> None:
    matching = {"pods": (pod(labels={"app": "x"}),)}
    counted_elsewhere = nmi("--exception-namespaces=kube-system")
    report = examined(
        objects=objects(**matching, exceptions=(exception(labels={"app": "x"}),)), nmi=(counted_elsewhere,)
    )
    assert bad(report) == []
    deleted = exception(labels={"app": "x"}, deleting=True)
    assert bad(examined(objects=objects(**matching, exceptions=(deleted,)))) == []
    covers = exception(labels={"component": "mic"}, namespace="kube-system")
    flags = ("--MICNamespace=default", "--exception-namespaces=default")
    line = one(examined(nmi=(nmi(*flags),), objects=objects(exceptions=(covers,))))
    assert line.check == "flags"
    assert "AzurePodIdentityException" in line.next


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


def test_unread_objects_are_unknown_and_texts_are_short_and_printable() -> None:
    report = examined(objects=ReadFailure("not allowed: nodes"))
    assert {finding.check: finding.level for finding in bad(report)} == {"NMI": Level.UNKNOWN, "objects": Level.UNKNOWN}
    assert exit_code(finding.level for finding in report.findings) == 1
    idle = tuple(binding(f"idle-{number}", selector=f"none-{number}") for number in range(30))
    assert "and 25 more" in one(examined(objects=objects(bindings=(binding(), *idle)))).says
    evil = binding("b", selector="\x1b]0;x\x07eyJhbGciOiJSUzI1NiJ9.eyJhIjoxfQ.c2lnbmF0dXJl")
    document = msgspec.json.encode(examined(objects=objects(bindings=(binding(), evil)))).decode()
    assert "\\u001b" not in document
    assert "eyJhbGci" not in document


@pytest.mark.parametrize(("groups", "count"), [("other", 1), ("s/g", 0), ("", 0)])
def test_a_node_whose_group_mic_may_not_change_is_reported(groups: str, count: int) -> None:
    findings = bad(examined(mic=(mic(f"--allowed-resource-groups={groups}"),)))
    assert [(finding.check, finding.level) for finding in findings] == [("unusable", Level.PROBLEM)] * count
    for finding in findings:
        assert "Node node-1 (1 pod): --allowed-resource-groups does not name the resource group" in finding.says
        assert "--allowed-resource-groups" in finding.next


def test_the_reason_why_the_clusters_own_identity_is_not_assigned_is_reported() -> None:
    desired_identity = assigned_identity().spec.azure_identity_ref
    reason = of_cluster(desired_identity, "key", Policy(own=frozenset({"key"})))
    annotations = {"aadpodidentity.k8s.io/message": reason}
    line = one(examined(objects=objects(assigned=(assigned_identity(status="Created", own_annotations=annotations),))))
    assert line.level is Level.PROBLEM
    assert reason in line.says


TWO = objects(nodes=(node(), node("node-2")))
MANAGED = ("--operation-mode=managed", "--forceNamespaced")


def test_a_node_without_nmi_is_named() -> None:
    line = one(examined(objects=TWO))
    assert (line.check, line.level) == ("NMI", Level.PROBLEM)
    assert "node-2" in line.says
    assert bad(examined(objects=TWO, nmi=(nmi(), nmi(name="nmi-2", node="node-2")))) == []


@pytest.mark.parametrize("labels", [{"kubernetes__io/os": "windows"}, {"type": "virtual-kubelet"}])
def test_a_node_where_nmi_cannot_run_is_not_reported(labels: dict[str, str]) -> None:
    assert bad(examined(objects=objects(nodes=(node(), node("node-2", **labels))))) == []


@pytest.mark.parametrize(
    ("changes", "check", "level", "says"),
    [
        ({"nmi": (nmi(ready=False),)}, "NMI", Level.PROBLEM, "kube-system/nmi-1 on node-1 (phase Running)"),
        ({"mic": (mic(ready=False),)}, "MIC", Level.PROBLEM, "no MIC is ready"),
        ({"mic": ()}, "MIC", Level.UNKNOWN, "no pod has MIC's label"),
        ({"nmi": ReadFailure("not allowed: pods")}, "NMI", Level.UNKNOWN, "not allowed: pods"),
        (
            {"mic": (mic(), mic(name="mic-2", image="registry/mic:2"))},
            "versions",
            Level.WARNING,
            "mic:1, registry/mic:2",
        ),
        ({"mic": (mic(image="registry/mic:2"),)}, "versions", Level.WARNING, "nmi runs from tag 1, mic from tag 2"),
        ({"mic": (mic(alone=True),)}, "flags", Level.WARNING, "only as a pod of a ReplicaSet named mic"),
        ({"nmi": (nmi("--forceNamespaced"),)}, "flags", Level.WARNING, "--forceNamespaced differs"),
        ({"nmi": (nmi("--flag-of-tomorrow"),)}, "flags", Level.WARNING, "unknown flag --flag-of-tomorrow"),
        ({"nmi": (nmi("--MICNamespace=default"),)}, "flags", Level.WARNING, "MIC runs in kube-system"),
        ({"nmi": (nmi("--allow-network-plugin-kubenet"),)}, "flags", Level.WARNING, "kubenet"),
    ],
)
def test_a_fault_of_a_program_is_reported(changes: dict[str, Any], check: str, level: Level, says: str) -> None:
    line = one(examined(**changes))
    assert (line.check, line.level) == (check, level)
    assert says in line.says


def test_in_managed_mode_a_mic_is_reported_and_none_is_ok() -> None:
    assert bad(examined(nmi=(nmi(*MANAGED),), mic=(), locks=())) == []
    lines = bad(examined(nmi=(nmi(*MANAGED),), mic=(mic("--forceNamespaced"),)))
    assert [finding.check for finding in lines] == ["MIC"]
    both = (nmi(), nmi(*MANAGED, name="nmi-2", node="node-2"))
    assert "different operation modes" in " ".join(finding.says for finding in bad(examined(objects=TWO, nmi=both)))


POD = ObjectReference(PODS.plural, "ns", "web")
BINDING = ObjectReference(BINDINGS.plural, "ns", "b")
IDENTITY = ObjectReference(IDENTITIES.plural, "ns", "id")
CREATED = assigned_identity(status="Created")
OLD = GRACE_SECONDS + 1


def aged(seconds: float, which: ObjectReference = POD, **changes: Any) -> Facts:
    """All objects are an hour old, except one, which is *seconds* old."""
    everything = (POD, BINDING, IDENTITY, ObjectReference(ASSIGNED_IDENTITIES.plural, *CREATED.key))
    ages = dict.fromkeys(everything, 3600.0) | {which: seconds}
    return objects(created_at={reference: NOW - timedelta(seconds=age) for reference, age in ages.items()}, **changes)


def progress(report: Report) -> list[str]:
    return [finding.says for finding in report.findings if "still in progress" in finding.says]


@pytest.mark.parametrize("which", [POD, BINDING, IDENTITY], ids=["pod", "binding", "identity"])
def test_a_recent_unassigned_identity_is_in_progress_and_becomes_a_problem(which: ObjectReference) -> None:
    young = examined(objects=aged(5, which, assigned=()))
    assert bad(young) == []
    assert progress(young) == ["1 identity is still in progress: ns/web (ns/id)"]
    old = examined(objects=aged(OLD, which, assigned=()))
    assert one(old).level is Level.PROBLEM
    assert progress(old) == []


def test_a_recently_created_assignment_is_in_progress_and_not_counted_as_assigned() -> None:
    report = examined(objects=aged(5, ObjectReference(ASSIGNED_IDENTITIES.plural, *CREATED.key), assigned=(CREATED,)))
    assert bad(report) == []
    assert progress(report) == ["1 identity is still in progress: default/web-ns-id"]
    assert [finding.says for finding in report.findings if finding.check == "assignments"][-1] == "0 assigned"
    assert one(examined(objects=aged(OLD, assigned=(CREATED,)))).level is Level.WARNING
    failed = assigned_identity(status="Created", own_annotations={"aadpodidentity.k8s.io/message": "grant the role"})
    assert one(examined(objects=aged(5, assigned=(failed,)))).says.endswith("grant the role")


def test_an_age_starts_when_a_pod_is_scheduled_by_the_api_servers_clock() -> None:
    ahead = ServerState("v1.31.0", 3600.0, 0.5)
    report = examined(objects=aged(5 - 3600.0, assigned=()), server=ahead)
    assert progress(report)
    assert not progress(examined(objects=aged(5 - 3600.0, assigned=())))
    scheduled = DatedCondition(type="PodScheduled", last_transition_time="2026-01-01T11:59:55Z")
    one_hour = DatedMeta(name="web", namespace="ns", creation_timestamp="2026-01-01T11:00:00Z")
    pod = DatedPod(metadata=one_hour, status=DatedStatus(conditions=[scheduled]))
    assert pod.since == NOW - timedelta(seconds=5)
    assert DatedPod(metadata=one_hour).since == NOW - timedelta(hours=1)
    assert DatedPod(metadata=DatedMeta(creation_timestamp="yesterday")).since is None


@pytest.mark.parametrize(
    "document", [{}, {"metadata": {"creationTimestamp": None}}, {"metadata": []}], ids=["bare", "null", "list"]
)
def test_an_object_without_a_date_has_no_age(document: dict[str, Any]) -> None:
    assert creation_time(document) is None


MIC_RIGHTS = mic_rights(namespace="podid", lease_namespace="default", lease="l", config_map="c", taint=True)
NOT_CHECKED = {
    "mic: get azureassignedidentities.aadpodidentity.k8s.io",
    "nmi: get secrets",
    "nmi: create serviceaccounts/token",
    "nmi: create serviceaccounts/token by name",
}
"""Those of NMI depend on the identities, and other checks concern them."""


@pytest.mark.parametrize(
    ("program", "checked"),
    [
        ("mic", {*MIC_RIGHTS, *upgrade_rights()}),
        ("nmi", {*nmi_rights(managed=False), *nmi_rights(managed=True)}),
    ],
)
def test_the_checked_rights_are_those_that_the_chart_grants(program: str, checked: set[Checked]) -> None:
    rights = {
        Right(program, right.verb, f"{right.resource}.{right.group}".rstrip("."), named=bool(right.name))
        for right in checked
    }
    assert rights == {right for right in granted() if right.program == program and str(right) not in NOT_CHECKED}
