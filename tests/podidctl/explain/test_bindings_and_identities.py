"""The first broken link between label and identity is named, with what to do about it."""

import msgspec
import pytest

from podidctl.diagnosis.decision import Outcome
from podidctl.explain.schema import LinkState
from podidentity.resources import AzureIdentitySpec, SecretReference
from tests.podidctl.prediction_inputs import broken, explain_pod, labelled, only, rules, states
from tests.support.nmi_objects import assigned_identity, binding, identity, pod

NAMESPACED = {"aadpodidentity.k8s.io/Behavior": "namespaced"}


def test_a_pod_without_a_label_is_reported() -> None:
    explanation = explain_pod(pod=pod(label=None), assigned=())
    assert only(explanation).link == "label"
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 400)


def test_a_selector_that_nearly_matches_is_mentioned() -> None:
    explanation = explain_pod(bindings=(binding(selector="Web"), binding("far", selector="payments")), assigned=())
    link = only(explanation)
    assert link.link == "binding"
    assert "ns/b selects 'Web'" in link.next
    assert "far" not in link.next
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.WAITS, 404)


def test_a_binding_without_its_identity_names_the_namespace_that_has_one_of_that_name() -> None:
    explanation = explain_pod(identities=(identity(namespace="elsewhere"),), assigned=())
    link = only(explanation)
    assert (link.link, link.about) == ("identity", "ns/id")
    assert "one of that name exists in elsewhere" in link.says


def test_a_malformed_resource_id_is_quoted() -> None:
    spec = AzureIdentitySpec(type=0, resource_id="/subscriptions/s/typo")
    explanation = explain_pod(identities=(msgspec.structs.replace(identity(), spec=spec),), assigned=())
    assert "'/subscriptions/s/typo'" in only(explanation).says


def test_an_identity_of_another_namespace_counts_unless_namespaces_are_enforced() -> None:
    far = {"bindings": (binding(namespace="far"),), "identities": (identity(namespace="far"),)}
    serves = labelled(assigned_identity(namespace="far"))
    assert broken(explain_pod(**far, assigned=(serves,))) == []
    forced = explain_pod(**far, assigned=(), configuration=rules(force_namespaced=True))
    assert "--forceNamespaced" in only(forced).says
    annotated = {"aadpodidentity.k8s.io/Behavior": "namespaced"}
    own = explain_pod(
        bindings=far["bindings"], identities=(identity(namespace="far", annotations=annotated),), assigned=()
    )
    assert "annotation" in only(own).says


def test_in_managed_mode_bindings_of_other_namespaces_do_not_count() -> None:
    explanation = explain_pod(
        configuration=rules(managed=True), bindings=(binding(namespace="far"),), identities=(identity(namespace="far"),)
    )
    assert "of namespace ns (managed mode)" in only(explanation).says


def test_in_managed_mode_an_object_being_deleted_does_not_count() -> None:
    explanation = explain_pod(configuration=rules(managed=True), bindings=(binding(deleting=True),))
    assert [each.link for each in broken(explanation)] == ["binding", "served"]


def test_an_identity_of_two_bindings_is_printed_once() -> None:
    links = states(explain_pod(bindings=(binding(), binding("twin"))))
    assert [links.count((name, "ok")) for name in ("binding", "identity", "assigned identity")] == [2, 1, 1]


def test_one_valid_binding_next_to_an_invalid_one_suffices_for_nmi_and_both_are_printed() -> None:
    explanation = explain_pod(bindings=(binding(), binding("c", "missing")))
    assert explanation.answer.outcome is Outcome.GRANTED
    assert (only(explanation).link, only(explanation).about) == ("identity", "ns/missing")
    assert states(explanation).count(("identity", "ok")) == 1


@pytest.mark.parametrize("how", ["flag", "annotation"])
def test_a_binding_of_another_team_for_the_same_label_is_no_fault_if_the_pod_is_served(how: str) -> None:
    annotations = NAMESPACED if how == "annotation" else None
    explanation = explain_pod(
        configuration=rules(force_namespaced=how == "flag"),
        bindings=(binding(), binding(namespace="far")),
        identities=(identity(), identity(namespace="far", annotations=annotations)),
    )
    assert broken(explanation) == []
    (link,) = [each for each in explanation.links if each.about == "far/b"]
    assert (link.link, link.state) == ("binding", LinkState.OK)
    assert "it does not serve this namespace" in link.says


def test_a_binding_of_another_team_is_not_the_reason_if_the_pods_own_is_broken() -> None:
    explanation = explain_pod(
        configuration=rules(force_namespaced=True),
        bindings=(binding(), binding(namespace="far")),
        identities=(identity(namespace="far"),),
        assigned=(),
    )
    assert only(explanation).about == "ns/id"


def test_in_standard_mode_an_object_being_deleted_still_counts_and_the_revoking_program_is_named() -> None:
    meta = msgspec.structs.replace(binding(deleting=True).metadata, finalizers=["team.example/hold"])
    explanation = explain_pod(
        bindings=(msgspec.structs.replace(binding(), metadata=meta),), identities=(identity(deleting=True),)
    )
    assert explanation.answer.outcome is Outcome.GRANTED
    assert broken(explanation) == []
    says = {each.link: each.says for each in explanation.links}
    assert "pods keep its access until the deletion is complete" in says["identity"]
    assert "(team.example/hold)" in says["binding"]


@pytest.mark.parametrize(
    ("spec", "managed", "then"),
    [
        (AzureIdentitySpec(type=1, client_id="c", tenant_id="t"), False, "names no Secret"),
        (
            AzureIdentitySpec(
                type=1, client_id="c", tenant_id="t", client_password=SecretReference(name="s", namespace="far")
            ),
            False,
            "Secret far/s, which was not read",
        ),
        (AzureIdentitySpec(type=7, client_id="c"), True, "correct spec.type of the AzureIdentity"),
        (AzureIdentitySpec(type=0), True, "clientID"),
    ],
    ids=["no-secret", "foreign-secret", "unknown-type", "no-ids"],
)
def test_an_identity_without_a_permitted_endpoint_is_a_broken_link_and_a_refusal(
    spec: AzureIdentitySpec, managed: bool, then: str
) -> None:
    changed = msgspec.structs.replace(identity(), spec=spec)
    standing = assigned_identity()
    embedded = msgspec.structs.replace(standing.spec, azure_identity_ref=changed)
    explanation = explain_pod(
        configuration=rules(managed=managed),
        identities=(changed,),
        assigned=(labelled(msgspec.structs.replace(standing, spec=embedded)),),
    )
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 403)
    assert explanation.answer.identity == "ns/id"
    assert then in only(explanation).next
