"""Fields that NMI and MIC ignore because of their spelling are named where they explain the pod's state."""

from typing import Any

import msgspec

from podidctl.explain.schema import LinkState
from podidentity.kube.ignored_fields import REMEDY
from podidentity.resources import AzureIdentitySpec
from tests.nmi.identity.shapes import binding, exception, identity, pod
from tests.podidctl.prediction_inputs import broken, explain_pod, only


def ignored(plural: str, name: str, *fields: str, namespace: str = "ns") -> dict[str, Any]:
    return {"ignored_fields": {(plural, namespace, name): fields}}


def test_a_binding_whose_selector_is_ignored_is_named_with_the_remedy() -> None:
    unselecting = binding(selector="")
    link = only(
        explain_pod(bindings=(unselecting,), assigned=(), **ignored("azureidentitybindings", "b", "spec.Selector"))
    )
    assert link.link == "binding"
    assert "fields spelled as before v1.6.0 are ignored: ns/b (spec.Selector)" in link.says
    assert link.next.endswith(REMEDY)


def test_a_binding_of_another_namespace_is_not_named() -> None:
    far = ignored("azureidentitybindings", "b", "spec.Selector", namespace="far")
    link = only(explain_pod(bindings=(binding(selector="", namespace="far"),), assigned=(), **far))
    assert "ignored" not in link.says


def test_an_identity_whose_resource_id_is_ignored_is_named_with_the_remedy() -> None:
    empty = msgspec.structs.replace(identity(), spec=AzureIdentitySpec(type=0))
    link = only(explain_pod(identities=(empty,), assigned=(), **ignored("azureidentities", "id", "spec.ResourceID")))
    assert (link.link, link.about) == ("identity", "ns/id")
    assert "are ignored: spec.ResourceID" in link.says
    assert link.next.startswith("correct the fields of AzureIdentity ns/id")


def test_a_usable_identity_with_a_leftover_field_is_no_fault() -> None:
    explanation = explain_pod(**ignored("azureidentities", "id", "spec.ClientID"))
    assert broken(explanation) == []
    (says,) = [each.says for each in explanation.links if each.link == "identity"]
    assert says.endswith("are ignored: spec.ClientID")


def test_a_pod_without_a_label_may_need_the_exception_whose_labels_are_ignored() -> None:
    there = {"exceptions": (exception(labels=None),), **ignored("azurepodidentityexceptions", "ex", "spec.PodLabels")}
    explanation = explain_pod(pod=pod(label=None), assigned=(), **there)
    (link,) = [each for each in explanation.links if each.link == "exception"]
    assert link.state is LinkState.UNKNOWN
    assert "are ignored: ns/ex (spec.PodLabels)" in link.says
    (link,) = [each for each in explain_pod(**there).links if each.link == "exception"]
    assert (link.state, link.next) == (LinkState.OK, "")
