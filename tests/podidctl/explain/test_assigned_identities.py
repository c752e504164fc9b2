"""An AzureAssignedIdentity that NMI does not serve is reported with the reason and MIC's message."""

from typing import Any

import pytest

from podidctl.diagnosis.decision import Outcome
from podidctl.explain.schema import LinkState
from tests.podidctl.prediction_inputs import broken, explain_pod, labelled, only
from tests.support.nmi_objects import assigned_identity


def test_a_missing_assignment_is_reported_with_where_to_look() -> None:
    explanation = explain_pod(assigned=())
    assert only(explanation).link == "assigned identity"
    assert "podidctl plan" in explanation.next
    assert explanation.answer.outcome is Outcome.WAITS


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": "Created"}, "not attached to the VM or scale set yet"),
        ({"status": "Unassigned"}, "its status is 'Unassigned'"),
        ({"deleting": True}, "it is being deleted and is not served"),
        ({"pod_uid": "uid-0"}, "an earlier pod of this name"),
        ({"selector": "other"}, "selects 'other'"),
        ({"nodename": "node-2"}, "it is for node node-2"),
    ],
)
def test_an_assignment_that_cannot_be_used_states_the_reason(changes: dict[str, Any], says: str) -> None:
    explanation = explain_pod(assigned=(labelled(assigned_identity(**changes)),))
    links = [each for each in explanation.links if each.link == "assigned identity"]
    assert [each.state for each in links] == [LinkState.BROKEN]
    assert says in links[0].says
    assert explanation.answer.outcome is not Outcome.GRANTED


def test_azures_refusal_is_printed_in_mics_words() -> None:
    message = "MIC may not assign it: grant it the role Managed Identity Operator"
    own = {"aadpodidentity.k8s.io/message": message}
    link = only(explain_pod(assigned=(labelled(assigned_identity(status="Created", own_annotations=own)),)))
    assert message in link.says
    assert link.next == message


def test_an_assignment_without_the_nodes_label_is_not_seen_by_nmi() -> None:
    link = only(explain_pod(assigned=(assigned_identity(),)))
    assert "label nodename" in link.says


def test_an_assignment_without_a_binding_that_nmi_still_uses_is_reported() -> None:
    explanation = explain_pod(assigned=(labelled(assigned_identity()), labelled(assigned_identity("old"))))
    (link,) = [each for each in explanation.links if each.about == "default/web-ns-old"]
    assert link.state is LinkState.UNKNOWN
    assert "no binding requires it for the pod any more" in link.says


@pytest.mark.parametrize(
    "changes",
    [
        {"deleting": True},
        {"pod_uid": "uid-0"},
        {"selector": "other"},
        {"nodename": "node-2"},
        {"status": "Created"},
        {"namespace": "far", "annotations": {"aadpodidentity.k8s.io/Behavior": "namespaced"}},
    ],
)
def test_an_assignment_without_a_binding_that_nmi_does_not_use_is_ok(changes: dict[str, Any]) -> None:
    explanation = explain_pod(assigned=(labelled(assigned_identity()), labelled(assigned_identity("old", **changes))))
    assert broken(explanation) == []
    (link,) = [each for each in explanation.links if each.about == "default/web-ns-old"]
    assert link.state is LinkState.OK
    assert "no binding requires it" in link.says
