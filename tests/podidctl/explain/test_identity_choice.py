"""A pod with several identities: those of other namespaces are named, and which one a request gets that names none."""

from typing import Any

from podidctl.diagnosis.decision import Outcome
from podidctl.diagnosis.several_identities import Variable, VariableContainer, VariablePod, VariablePodSpec
from podidctl.explain.schema import Link, LinkState
from podidctl.token.prediction import predict
from podidentity.resources import CREATED
from tests.podidctl.prediction_inputs import explain_pod, facts, labelled, rules
from tests.support.nmi_objects import NODE, RESOURCE, assigned_identity, binding, identity, pod


def two(namespace: str, *, status: str = "Assigned") -> dict[str, Any]:
    """The pod's identity ns/id, in this *status*, and another one whose binding has the first name."""
    return {
        "bindings": (binding(), binding("a", "any", namespace=namespace)),
        "identities": (identity(), identity("any", namespace=namespace)),
        "assigned": (
            labelled(assigned_identity(binding="b", status=status)),
            labelled(assigned_identity("any", binding="a", namespace=namespace)),
        ),
    }


def links(name: str, **changes: Any) -> list[Link]:
    return [each for each in explain_pod(**changes).links if each.link == name]


def test_the_binding_of_another_namespace_is_named_as_such_and_that_of_its_own_is_not() -> None:
    foreign, own = links("binding", **two("evil"))
    assert (foreign.about, foreign.state) == ("evil/a", LinkState.OK)
    assert "of another namespace" in foreign.says
    assert "of another namespace" not in own.says


def test_the_identity_of_the_pods_namespace_is_the_one_that_a_request_gets() -> None:
    explanation = explain_pod(**two("evil"))
    assert (explanation.answer.outcome, explanation.answer.identity) == (Outcome.GRANTED, "ns/id")
    assert predict(facts(**two("evil")), RESOURCE).identity == "ns/id"
    (choice,) = (each for each in explanation.links if each.link == "choice")
    assert (choice.about, choice.state) == ("evil/any, ns/id", LinkState.UNKNOWN)
    assert choice.says == "a request that names none gets ns/id"
    assert "AZURE_CLIENT_ID" in choice.next


def test_of_several_identities_of_one_namespace_the_first_by_binding_is_named() -> None:
    (choice,) = links("choice", **two("ns"))
    assert choice.says == "a request that names none gets ns/any"


def test_while_its_own_is_being_assigned_a_request_waits() -> None:
    changes = two("evil", status=CREATED)
    assert explain_pod(**changes).answer.outcome is Outcome.WAITS
    (choice,) = links("choice", **changes)
    assert choice.says == "a request that names none waits until one is assigned"


def test_a_pod_that_sets_its_client_id_or_has_one_identity_has_nothing_to_choose() -> None:
    plain = pod()
    spec = VariablePodSpec(node_name=NODE, containers=[VariableContainer(env=[Variable("AZURE_CLIENT_ID")])])
    (choice,) = links("choice", pod=VariablePod(metadata=plain.metadata, spec=spec, status=plain.status), **two("ns"))
    assert choice.state is LinkState.OK
    assert links("choice") == []
    assert links("choice", configuration=rules(force_namespaced=True), **two("evil")) == []
