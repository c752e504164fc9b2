"""Requirements of federated identities: each missing one is reported with the next action, and its neighbour is not."""

import dataclasses
from io import StringIO
from typing import Any

import msgspec
import pytest
import yaml
from rich.console import Console

from podidctl.facts.model import FederatedAccess, ReadFailure, ServerState
from podidctl.report.documents import CheckResult, Report, check_result
from podidctl.report.finding import Finding, Level
from podidctl.report.findings_table import MANIFEST_LINES_MAX, show
from podidentity.azure.identity_permissions import permission_binding, permission_role
from podidentity.resources import AzureIdentity
from tests.support.nmi_objects import CLIENT_ID, assigned_identity, binding, exception, pod
from tests.support.podidctl.doctor_inputs import bad, examined, nmi, node, objects, one
from tests.support.podidctl.prediction_inputs import NMI_ACCOUNT, federated

ON = nmi("--federated-identities")
THERE = FederatedAccess({"ns": frozenset({"shop", "default"})}, {NMI_ACCOUNT: ()})


def diagnose(*identities: AzureIdentity, **changes: Any) -> Report:
    """A healthy installation with one or more identities of type 3; *changes* replace parts of its state."""
    own = identities or (federated(),)
    made = assigned_identity(own_namespace="ns")
    spec = msgspec.structs.replace(made.spec, azure_identity_ref=own[0])
    parts: dict[str, Any] = {
        "identities": own,
        "assigned": (msgspec.structs.replace(made, spec=spec),),
        "pods": (pod(service_account="shop"),),
    }
    parts |= {name: changes.pop(name) for name in (*parts, "bindings", "exceptions", "nodes") if name in changes}
    return examined(**({"nmi": (ON,), "federation": THERE, "objects": objects(**parts)} | changes))


def federated_only(report: Report) -> list[CheckResult]:
    return [finding for finding in bad(report) if finding.check == "federated"]


def test_a_complete_configuration_has_no_finding() -> None:
    report = diagnose()
    assert bad(report) == []
    (line,) = [finding for finding in report.findings if finding.check == "federated"]
    assert line.says == "1 identity for pods of 1 service account"
    assert not [finding for finding in examined().findings if finding.check == "federated"]
    assert bad(permissions_of()) == []
    assert federated_only(shared_by(200, "--federated-exchange=identityBindings")) == []


@pytest.mark.parametrize(("with_pods", "level"), [(True, Level.PROBLEM), (False, Level.WARNING)])
def test_a_type_that_no_nmi_serves_is_reported_once(with_pods: bool, level: Level) -> None:
    parts = {} if with_pods else {"pods": (), "assigned": ()}
    (line,) = federated_only(diagnose(federated(), federated("other", client_id="2"), nmi=(nmi(),), **parts))
    assert line.level is level
    assert "2 identities are federated (type 3), and no NMI has --federated-identities: ns/id, ns/other" in line.says
    assert "federated.enabled" in line.next


def test_nodes_without_the_flag_and_identities_without_a_token_source_are_named() -> None:
    line = one(diagnose(nmi=(ON, nmi(name="nmi-2", node="node-2")), nodes=(node(), node("node-2"))))
    assert (line.check, line.level) == ("federated", Level.WARNING)
    assert "on 1 node, but has it on others: node-2" in line.says
    for flags in ((), ("--federated-identities",)):
        lines = [
            finding
            for finding in bad(diagnose(federated(tenant_id=""), nmi=(nmi(*flags),)))
            if finding.check == "unusable"
        ]
        (line,) = lines
        assert line.says.startswith("AzureIdentity ns/id (1 pod)")
        assert "tenant" in line.next


@pytest.mark.parametrize(("version", "well"), [("v1.29.9", False), ("v1.30.0", True), ("v1.30.0+k3s1", True)])
def test_a_server_without_admission_policies_is_reported(version: str, *, well: bool) -> None:
    lines = bad(diagnose(server=ServerState(version, 0.2, 0.6)))
    assert [finding.level for finding in lines] == ([] if well else [Level.WARNING])
    assert well or "upgrade to 1.30" in lines[0].next


def test_an_identity_whose_pods_are_all_in_other_namespaces_is_reported() -> None:
    far = federated(namespace="far")
    lines = bad(diagnose(far, bindings=(binding(namespace="far"),), assigned=()))
    assert [(finding.check, finding.level) for finding in lines] == [
        ("federated", Level.WARNING),
        ("selectors", Level.PROBLEM),
    ]
    assert "AzureIdentity far/id is federated" in lines[0].says
    assert "(ns)" in lines[0].says
    both = (pod(service_account="shop"), pod("own", namespace="far", uid="uid-2", service_account="shop"))
    assert federated_only(diagnose(far, bindings=(binding(namespace="far"),), assigned=(), pods=both)) == []


def test_a_missing_service_account_is_reported_with_its_pods() -> None:
    line = one(diagnose(federation=FederatedAccess({"ns": frozenset({"default"})}, {NMI_ACCOUNT: ()})))
    assert (line.check, line.level) == ("federated", Level.PROBLEM)
    assert line.says == "service account ns/shop does not exist; Azure identifies these pods by it: ns/web"
    assert line.next == "create it: kubectl create serviceaccount -n ns shop"
    pods = (pod(service_account="gone", labels={"app": "x"}),)
    lines = federated_only(diagnose(pods=pods, exceptions=(exception(labels={"app": "x"}),)))
    assert lines == []


def test_missing_permissions_of_nmi_are_reported_with_the_chart_value() -> None:
    line = one(diagnose(federation=FederatedAccess(THERE.accounts, {NMI_ACCOUNT: ("ns/shop",), "kube-system/two": ()})))
    assert (line.check, line.level) == ("federated", Level.PROBLEM)
    assert line.says == "NMI's service account kube-system/nmi may not request tokens of service accounts ns/shop"
    assert "federated.namespaces" in line.next
    failure = ReadFailure("not allowed: serviceaccounts")
    report = diagnose(federation=FederatedAccess({"ns": failure}, ReadFailure("not allowed: subjectaccessreviews")))
    assert [finding.level for finding in bad(report)] == [Level.UNKNOWN, Level.UNKNOWN]


def shared_by(number: int, *flags: str) -> Report:
    """Two AzureIdentities for one client id, used by *number* service accounts."""
    # Azure ignores case in client ids, and two pods of one account are one subject.
    twin = federated("twin", client_id=CLIENT_ID.upper(), tenant_id="CONTOSO.com")
    pods = [
        pod(f"p{index}", uid=f"u{index}", service_account=f"sa-{index}", label="ab"[index % 2])
        for index in range(number)
    ]
    pods.append(pod("again", uid="again", service_account="sa-0", label="a"))
    names = frozenset(pod.spec.service_account_name for pod in pods)
    return diagnose(
        federated(),
        twin,
        nmi=(nmi("--federated-identities", *flags),),
        pods=tuple(pods),
        bindings=(binding("a", selector="a"), binding("b", "twin", selector="b")),
        federation=FederatedAccess({"ns": names}, {NMI_ACCOUNT: ()}),
    )


@pytest.mark.parametrize(
    ("number", "level"), [(15, None), (16, Level.WARNING), (20, Level.WARNING), (21, Level.PROBLEM)]
)
def test_subjects_of_one_identity_are_compared_with_azures_limit(number: int, level: Level | None) -> None:
    lines = federated_only(shared_by(number))
    assert [finding.level for finding in lines] == ([] if level is None else [level])
    for finding in lines:
        assert f"pods of {number} service accounts share client id {CLIENT_ID}" in finding.says
        assert "identity bindings" in finding.next


def permissions_of(*unpermitted: tuple[str, tuple[str, ...]], **changes: Any) -> Report:
    bindings = nmi("--federated-identities", "--federated-exchange=identityBindings")
    access = dataclasses.replace(THERE, unpermitted=dict(unpermitted))
    return diagnose(**({"nmi": (bindings,), "federation": access} | changes))


def test_a_missing_permission_of_identity_bindings_is_reported_with_its_objects() -> None:
    line = one(permissions_of((CLIENT_ID, ("ns/shop",))))
    assert (line.check, line.level) == ("federated", Level.PROBLEM)
    assert line.says.startswith(
        f"RBAC does not let service accounts ns/shop use the identity with client id {CLIENT_ID} (use-managed-identity)"
    )
    assert "kubectl apply" in line.next
    assert list(yaml.safe_load_all(line.manifest)) == [
        permission_role(CLIENT_ID),
        permission_binding(CLIENT_ID, "ns", "shop"),
    ]
    pods = (pod(service_account="shop", labels={"app": "x"}),)
    report = permissions_of((CLIENT_ID, ("ns/shop",)), pods=pods, exceptions=(exception(labels={"app": "x"}),))
    assert federated_only(report) == []
    line = one(permissions_of(("*", ("ns/shop",))))
    assert (line.manifest, "GUID" in line.next) == ("", True)


def test_unreadable_permissions_are_unknown_with_the_operators_permission() -> None:
    line = one(permissions_of(federation=dataclasses.replace(THERE, unpermitted=ReadFailure("not allowed: reviews"))))
    assert line.level is Level.UNKNOWN
    assert "not allowed: reviews" in line.says
    assert "create on subjectaccessreviews" in line.next
    line = one(permissions_of(federation=dataclasses.replace(THERE, unchecked_uses=3)))
    assert line.level is Level.UNKNOWN
    assert line.says == "the permission of 3 more service accounts was not checked"


def test_the_table_prints_whole_manifests_up_to_a_limit() -> None:
    manifest = "---\n" + "a: b\n" * (MANIFEST_LINES_MAX // 2 - 1)
    finding = check_result(Finding("federated", Level.PROBLEM, "says", "then", manifest=manifest))
    text = StringIO()
    show(Report(findings=[finding] * 3), Console(file=text, width=200, highlight=False))
    assert text.getvalue().count(manifest) == 2
    assert "1 more manifest: podidctl doctor -o json" in text.getvalue()
