"""Requirements of federated identities: each missing one is reported with the next action, and its neighbour is not."""

from typing import Any

import msgspec
import pytest

from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.schema import Finding, Level, Report
from podidctl.doctor.state import FederatedAccess, ServerState
from podidentity.resources import AzureIdentity
from tests.nmi.identity.shapes import CLIENT_ID, assigned_identity, binding, exception, pod
from tests.podidctl.doctor_inputs import bad, examined, nmi, node, objects, one
from tests.podidctl.federated import NMI_ACCOUNT, federated

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


def federated_only(report: Report) -> list[Finding]:
    return [each for each in bad(report) if each.check == "federated"]


def test_a_complete_configuration_has_no_finding() -> None:
    report = diagnose()
    assert bad(report) == []
    (line,) = [each for each in report.findings if each.check == "federated"]
    assert line.says == "1 identity for pods of 1 service account"


def test_without_federated_identities_there_is_no_finding() -> None:
    assert not [each for each in examined().findings if each.check == "federated"]


@pytest.mark.parametrize(("with_pods", "level"), [(True, Level.PROBLEM), (False, Level.WARNING)])
def test_a_type_that_no_nmi_serves_is_reported_once(with_pods: bool, level: Level) -> None:
    parts = {} if with_pods else {"pods": (), "assigned": ()}
    (line,) = federated_only(diagnose(federated(), federated("other", client_id="2"), nmi=(nmi(),), **parts))
    assert line.level is level
    assert "2 identities are federated (type 3), and no NMI has --federated-identities: ns/id, ns/other" in line.says
    assert "federated.enabled" in line.next


def test_an_unfinished_rollout_of_the_flag_names_the_nodes_without_it() -> None:
    line = one(diagnose(nmi=(ON, nmi(name="nmi-2", node="node-2")), nodes=(node(), node("node-2"))))
    assert (line.check, line.level) == ("federated", Level.WARNING)
    assert "on 1 node, but has it on others: node-2" in line.says


@pytest.mark.parametrize(("version", "well"), [("v1.29.9", False), ("v1.30.0", True), ("v1.30.0+k3s1", True)])
def test_a_server_without_admission_policies_is_reported(version: str, *, well: bool) -> None:
    lines = bad(diagnose(server=ServerState(version, 0.2, 0.6)))
    assert [each.level for each in lines] == ([] if well else [Level.WARNING])
    assert well or "upgrade to 1.30" in lines[0].next


def test_an_identity_whose_pods_are_all_in_other_namespaces_is_reported() -> None:
    far = federated(namespace="far")
    lines = bad(diagnose(far, bindings=(binding(namespace="far"),), assigned=()))
    assert [(each.check, each.level) for each in lines] == [
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


def test_an_exempt_pod_requires_no_service_account() -> None:
    pods = (pod(service_account="gone", labels={"app": "x"}),)
    lines = federated_only(diagnose(pods=pods, exceptions=(exception(labels={"app": "x"}),)))
    assert lines == []


def test_missing_permissions_of_nmi_are_reported_with_the_chart_value() -> None:
    line = one(diagnose(federation=FederatedAccess(THERE.accounts, {NMI_ACCOUNT: ("ns/shop",), "kube-system/two": ()})))
    assert (line.check, line.level) == ("federated", Level.PROBLEM)
    assert line.says == "NMI's service account kube-system/nmi may not request tokens of service accounts ns/shop"
    assert "federated.namespaces" in line.next


def test_an_unreadable_state_is_unknown() -> None:
    why = ReadFailure("not allowed: serviceaccounts")
    report = diagnose(federation=FederatedAccess({"ns": why}, why))
    assert [each.level for each in bad(report)] == [Level.UNKNOWN, Level.UNKNOWN]


@pytest.mark.parametrize(("number", "well"), [(20, True), (21, False)])
def test_more_subjects_than_azure_accepts_for_one_identity_are_counted(number: int, *, well: bool) -> None:
    # Azure ignores case in client ids, and two pods of one account are one subject.
    twin = federated("twin", client_id=CLIENT_ID.upper(), tenant_id="CONTOSO.com")
    pods = [
        pod(f"p{each}", uid=f"u{each}", service_account=f"sa-{each}", label="ab"[each % 2]) for each in range(number)
    ]
    pods.append(pod("again", uid="again", service_account="sa-0", label="a"))
    names = frozenset(each.spec.service_account_name for each in pods)
    report = diagnose(
        federated(),
        twin,
        pods=tuple(pods),
        bindings=(binding("a", selector="a"), binding("b", "twin", selector="b")),
        federation=FederatedAccess({"ns": names}, {NMI_ACCOUNT: ()}),
    )
    lines = federated_only(report)
    assert [each.level for each in lines] == ([] if well else [Level.PROBLEM])
    assert well or "pods of 21 service accounts share client id c11e…000a" in lines[0].says


def test_an_identity_without_a_token_source_in_nmi_is_unusable_whatever_the_flag() -> None:
    for flags in ((), ("--federated-identities",)):
        lines = [
            each for each in bad(diagnose(federated(tenant_id=""), nmi=(nmi(*flags),))) if each.check == "unusable"
        ]
        (line,) = lines
        assert line.says.startswith("AzureIdentity ns/id (1 pod)")
        assert "tenant" in line.next
