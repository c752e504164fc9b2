"""The first broken link between label and identity is named, with what to do about it."""

import msgspec

from podidctl.inquiry.verdict import Outcome
from podidentity.resources import AzureIdentitySpec
from tests.nmi.identity.shapes import assigned_identity, binding, identity, pod
from tests.podidctl.asked import broken, labelled, only, rules, states, told


def test_a_pod_without_a_label_is_told_so() -> None:
    explanation = told(pod=pod(label=None), assigned=())
    assert only(explanation).link == "label"
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 400)


def test_a_selector_that_nearly_fits_is_pointed_out() -> None:
    explanation = told(bindings=(binding(selector="Web"), binding("far", selector="payments")), assigned=())
    link = only(explanation)
    assert link.link == "binding"
    assert "ns/b selects 'Web'" in link.next
    assert "far" not in link.next
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.WAITS, 404)


def test_a_binding_whose_identity_is_not_there_is_told_where_one_of_that_name_is() -> None:
    explanation = told(identities=(identity(namespace="elsewhere"),), assigned=())
    link = only(explanation)
    assert (link.link, link.about) == ("identity", "ns/id")
    assert "there is one of that name in elsewhere" in link.says


def test_a_malformed_resource_id_is_quoted() -> None:
    spec = AzureIdentitySpec(type=0, resource_id="/subscriptions/s/typo")
    explanation = told(identities=(msgspec.structs.replace(identity(), spec=spec),), assigned=())
    assert "'/subscriptions/s/typo'" in only(explanation).says


def test_an_identity_of_another_namespace_serves_unless_somebody_said_otherwise() -> None:
    far = {"bindings": (binding(namespace="far"),), "identities": (identity(namespace="far"),)}
    serves = labelled(assigned_identity(namespace="far"))
    assert broken(told(**far, assigned=(serves,))) == []
    forced = told(**far, assigned=(), rules=rules(force_namespaced=True))
    assert "--forceNamespaced" in only(forced).says
    annotated = {"aadpodidentity.k8s.io/Behavior": "namespaced"}
    own = told(bindings=far["bindings"], identities=(identity(namespace="far", annotations=annotated),), assigned=())
    assert "annotation" in only(own).says


def test_in_managed_mode_bindings_of_other_namespaces_do_not_count() -> None:
    explanation = told(
        rules=rules(managed=True), bindings=(binding(namespace="far"),), identities=(identity(namespace="far"),)
    )
    assert "of namespace ns (managed mode)" in only(explanation).says


def test_in_managed_mode_what_is_being_deleted_serves_no_more() -> None:
    explanation = told(rules=rules(managed=True), bindings=(binding(deleting=True),))
    assert [each.link for each in broken(explanation)] == ["binding", "served"]


def test_what_two_bindings_give_is_told_once() -> None:
    links = states(told(bindings=(binding(), binding("twin"))))
    assert [links.count((name, "ok")) for name in ("binding", "identity", "assigned identity")] == [2, 1, 1]


def test_one_good_binding_beside_a_bad_one_is_enough_for_nmi_and_both_are_told() -> None:
    explanation = told(bindings=(binding(), binding("c", "missing")))
    assert explanation.answer.outcome is Outcome.GRANTED
    assert (only(explanation).link, only(explanation).about) == ("identity", "ns/missing")
    assert states(explanation).count(("identity", "ok")) == 1
