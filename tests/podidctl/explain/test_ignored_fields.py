"""Fields that NMI and MIC ignore because of their spelling are named where they explain the pod's state."""

from typing import Any

import msgspec
import pytest

from podidctl.explain.ignored_fields import BY_MIC, correct
from podidctl.explain.schema import LinkState
from podidentity.kube.ignored_fields import REMEDY
from podidentity.resources import AzureIdentitySpec
from tests.podidctl.prediction_inputs import broken, explain_pod, only, rules
from tests.support.nmi_objects import binding, exception, identity, pod


def ignored(plural: str, name: str, *fields: str, namespace: str = "ns") -> dict[str, Any]:
    return {"ignored_fields": {(plural, namespace, name): fields}}


def test_a_binding_whose_selector_is_ignored_is_named_with_the_remedy() -> None:
    unselecting = binding(selector="")
    link = only(
        explain_pod(bindings=(unselecting,), assigned=(), **ignored("azureidentitybindings", "b", "spec.Selector"))
    )
    assert link.link == "binding"
    assert f"fields spelled as before v1.6.0 are ignored{BY_MIC}: ns/b (spec.Selector)" in link.says
    assert link.next.endswith(REMEDY)


def test_a_binding_whose_identity_is_ignored_is_named_with_the_remedy() -> None:
    there = {"bindings": (binding(identity_name=""),), **ignored("azureidentitybindings", "b", "spec.AzureIdentity")}
    explanation = explain_pod(assigned=(), **there)
    (says,) = [each.says for each in explanation.links if each.link == "binding"]
    assert says.endswith(
        f"it names no AzureIdentity; fields spelled as before v1.6.0 are ignored{BY_MIC}: spec.AzureIdentity"
    )
    link = only(explanation)
    assert (link.link, link.about, link.says) == ("identity", "none", "binding ns/b names no AzureIdentity")
    assert link.next == correct("AzureIdentityBinding ns/b")


def test_a_binding_that_names_no_identity_is_to_be_completed() -> None:
    link = only(explain_pod(assigned=(), bindings=(binding(identity_name=""),)))
    assert link.next == "set spec.azureIdentity of binding ns/b"


def test_a_binding_with_a_similar_selector_is_named_too() -> None:
    bindings = (binding(selector="wbe"), binding("old", selector=""))
    link = only(explain_pod(bindings=bindings, assigned=(), **ignored("azureidentitybindings", "old", "spec.Selector")))
    assert "ns/b selects 'wbe'; " in link.says
    assert f"{BY_MIC}: ns/old (spec.Selector)" in link.says
    assert link.next.startswith("set spec.selector of the binding or the pod's label to the same value: ns/b")
    assert link.next.endswith(correct("the binding that is to select this pod"))


def test_a_binding_of_another_namespace_is_named_after_those_of_the_pods_unless_it_cannot_select_it() -> None:
    bindings = (binding(selector="", namespace="default"), binding(selector=""))
    fields = {("azureidentitybindings", each.metadata.namespace, "b"): ("spec.Selector",) for each in bindings}
    there = {"bindings": bindings, "assigned": (), "ignored_fields": fields}
    assert f"{BY_MIC}: ns/b (spec.Selector), default/b (spec.Selector)" in only(explain_pod(**there)).says
    for configuration in (rules(managed=True), rules(force_namespaced=True)):
        link = only(explain_pod(configuration=configuration, **there))
        assert link.says.endswith(": ns/b (spec.Selector)")
        assert (BY_MIC in link.says) is (configuration == rules(force_namespaced=True)), (
            "MIC does not run in managed mode"
        )


@pytest.mark.parametrize(
    ("selector", "fields"), [("", ("spec.AzureIdentity",)), ("other", ("spec.Selector",))], ids=["another field", "set"]
)
def test_a_binding_that_the_field_does_not_keep_from_selecting_is_not_named(
    selector: str, fields: tuple[str, ...]
) -> None:
    there = ignored("azureidentitybindings", "b", *fields)
    link = only(explain_pod(bindings=(binding(selector=selector),), assigned=(), **there))
    assert "ignored" not in link.says


def test_an_identity_whose_resource_id_is_ignored_is_named_with_the_remedy() -> None:
    empty = msgspec.structs.replace(identity(), spec=AzureIdentitySpec(type=0))
    link = only(explain_pod(identities=(empty,), assigned=(), **ignored("azureidentities", "id", "spec.ResourceID")))
    assert (link.link, link.about) == ("identity", "ns/id")
    assert f"{BY_MIC}: spec.ResourceID" in link.says
    assert link.next.startswith("correct the fields of AzureIdentity ns/id")


def test_a_usable_identity_with_a_leftover_field_is_no_fault() -> None:
    explanation = explain_pod(**ignored("azureidentities", "id", "spec.ClientID"))
    assert broken(explanation) == []
    (says,) = [each.says for each in explanation.links if each.link == "identity"]
    assert says.endswith(f"{BY_MIC}: spec.ClientID")


def test_a_pod_without_a_label_may_need_the_exception_whose_labels_are_ignored() -> None:
    there = {"exceptions": (exception(labels=None),), **ignored("azurepodidentityexceptions", "ex", "spec.PodLabels")}
    explanation = explain_pod(pod=pod(label=None), assigned=(), **there)
    (link,) = [each for each in explanation.links if each.link == "exception"]
    assert link.state is LinkState.UNKNOWN
    assert "are ignored: ns/ex (spec.PodLabels)" in link.says
    (link,) = [each for each in explain_pod(**there).links if each.link == "exception"]
    assert (link.state, link.next) == (LinkState.OK, "")
