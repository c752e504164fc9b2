"""What is wrong with a workload, an identity, a binding or a node that the command line names, and its pods."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from podidctl.checks.objects import Examined, examine_binding, examine_identity, examine_node
from podidctl.commands.explain_targets import selector_text
from podidctl.facts.model import ObjectReference, ReadFailure
from podidctl.facts.workloads import LabelSelector
from podidctl.report.finding import Finding, Level
from podidentity.resources import AzureIdentityBinding
from tests.support.nmi_objects import NODE, binding, identity, pod
from tests.support.podidctl.doctor_inputs import cluster_case, nmi, node, objects


def faults(examined: Examined) -> list[Finding]:
    """The problems; each states the next action."""
    problems = [finding for finding in examined.findings if finding.level is Level.PROBLEM]
    assert all(finding.next for finding in problems)
    return problems


def names(examined: Examined) -> list[str]:
    return ["/".join(found.key) for found in examined.pods]


def of_identity(name: str = "id", **changes: Any) -> Examined:
    return examine_identity(cluster_case(objects=objects(**changes)), ("ns", name))


def of_binding(name: str = "b", *flags: str, **changes: Any) -> Examined:
    return examine_binding(cluster_case(objects=objects(**changes), nmi=(nmi(*flags),)), ("ns", name))


@pytest.mark.parametrize(
    ("changes", "link", "says"),
    [
        ({"identities": (identity(resource_id="/nonsense"),)}, "identity", "spec.resourceID '/nonsense'"),
        (
            {"bindings": (binding(identity_name="idd"),)},
            "binding",
            "no AzureIdentityBinding of namespace ns names this AzureIdentity; ns/b names 'idd'",
        ),
        ({"bindings": (binding(namespace="other"),)}, "binding", "no AzureIdentityBinding of namespace ns names"),
        ({"pods": ()}, "binding", "no running pod that it may serve has the label aadpodidbinding=web"),
        ({"pods": (pod(label="wbe"),)}, "binding", "aadpodidbinding=web; ns/web has 'wbe'"),
        ({"pods": (pod(phase="Succeeded"),)}, "binding", "no running pod"),
    ],
)
def test_a_fault_of_an_identity_is_named(changes: Any, link: str, says: str) -> None:
    (fault,) = faults(of_identity(**changes))
    assert fault.check == link
    assert says in fault.message
    well = of_identity()
    assert (faults(well), names(well)) == ([], ["ns/web"])


@pytest.mark.parametrize(
    ("changes", "link", "says"),
    [
        ({"identities": ()}, "identity", "this AzureIdentity does not exist"),
        ({"bindings": (binding(selector="wbe"),)}, "binding", "aadpodidbinding=wbe; ns/web has 'web'"),
        ({"bindings": (binding(selector=""),)}, "binding", "it has no selector"),
    ],
)
def test_a_fault_of_a_binding_is_named(changes: Any, link: str, says: str) -> None:
    (fault,) = faults(of_binding(**changes))
    assert fault.check == link
    assert says in fault.message
    well = of_binding()
    assert (faults(well), names(well)) == ([], ["ns/web"])
    assert "1 running pod has the label aadpodidbinding=web" in well.findings[0].message


IGNORED = {ObjectReference("azureidentitybindings", "ns", "b"): ("spec.AzureIdentity", "spec.Selector")}


@pytest.mark.parametrize(
    ("its", "fault", "says"),
    [
        (binding(identity_name=""), "none", "no AzureIdentityBinding of namespace ns names this AzureIdentity"),
        (binding(selector=""), "ns/b", "it has no selector"),
    ],
    ids=["name", "selector"],
)
def test_a_binding_whose_fields_have_old_names_is_to_be_corrected(
    its: AzureIdentityBinding, fault: str, says: str
) -> None:
    state = objects(bindings=(its,))
    (finding,) = faults(examine_identity(cluster_case(objects=replace(state, ignored_fields=IGNORED)), ("ns", "id")))
    assert (finding.about, finding.next.startswith("correct the fields of ")) == (fault, True)
    assert finding.message.startswith(says)
    assert "fields spelled as before v1.6.0 are ignored" in finding.message
    (finding,) = faults(of_identity(bindings=(its,)))
    assert finding.message == says
    assert finding.next.startswith(("create an AzureIdentityBinding", "set spec.selector of the binding"))


def test_pods_of_other_namespaces_count_only_where_the_binding_may_serve_them() -> None:
    there = (pod(), pod(namespace="other"))
    assert names(of_binding(pods=there)) == names(of_identity(pods=there)) == ["ns/web", "other/web"]
    assert names(of_binding("b", "--forceNamespaced", pods=there)) == ["ns/web"]
    assert names(of_binding(pods=there, identities=(identity(type_=3),))) == ["ns/web"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("idd", "this AzureIdentity does not exist; similar names: id"),
        ("payments", "this AzureIdentity does not exist"),
        ("only", "this AzureIdentity does not exist; similar names: other/only"),
    ],
)
def test_a_name_that_does_not_exist_is_reported_with_similar_ones(name: str, says: str) -> None:
    examined = of_identity(name, identities=(identity(), identity("only", namespace="other")))
    (fault,) = faults(examined)
    assert (fault.message, fault.about, names(examined)) == (says, f"ns/{name}", [])
    assert "-n ns" in fault.next
    (fault,) = faults(of_binding("zz"))
    assert fault.message == "this AzureIdentityBinding does not exist"


def of_node(name: str = NODE, **changes: Any) -> Examined:
    return examine_node(cluster_case(**changes), ("", name))


def test_a_node_without_a_working_nmi_is_named() -> None:
    assert (faults(of_node()), names(of_node())) == ([], ["ns/web"])
    (fault,) = faults(of_node(nmi=(nmi(ready=False),)))
    assert fault.message.startswith(f"not ready on node {NODE}")
    (fault,) = faults(of_node(nmi=(nmi(node="node-2"),)))
    assert "this node has no NMI" in fault.message
    (fault,) = faults(of_node("node-x", objects=objects(nodes=(node("node-a"),))))
    assert (fault.message, fault.about) == ("this Node does not exist; similar names: node-a", "node-x")
    unread = examine_node(cluster_case(objects=ReadFailure("not allowed: nodes")), ("", NODE))
    assert [finding.level for finding in unread.findings] == [Level.UNKNOWN]


def test_a_selector_is_written_in_the_syntax_of_a_request() -> None:
    several = [("a", "In", ["x", "y"]), ("b", "NotIn", ["z"]), ("c", "Exists", None), ("d", "DoesNotExist", None)]
    expressions = [{"key": key, "operator": operator, "values": values} for key, operator, values in several]
    document = {"matchLabels": {"app": "web", "tier": "front"}, "matchExpressions": expressions}
    text = selector_text(msgspec.convert(document, LabelSelector))
    assert text == "app=web,tier=front,a in (x,y),b notin (z),c,!d"
