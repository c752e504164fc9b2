"""The first line of the output contradicts none of the links below it."""

from dataclasses import replace

import pytest

from mic.azure.identities import GONE, Attached, HostIdentities
from podidctl.diagnosis.decision import Outcome
from podidctl.diagnosis.input import NmiPods
from tests.podidctl.prediction_inputs import broken, explain_pod, labelled, nmi_pod, only, rules
from tests.support.nmi_objects import assigned_identity, binding, exception, identity, pod, resource_id

NO_WORKING_NMI = {
    "nowhere": NmiPods(),
    "elsewhere": NmiPods(others=(nmi_pod("node-2"),)),
    "not-ready": NmiPods((nmi_pod(ready=False),)),
}
ATTACHED = HostIdentities(attached={resource_id("id").lower(): Attached(resource_id("id"))})
UNDER = {"pod": pod(label=None, labels={"app": "x"}), "exceptions": (exception(labels={"app": "x"}),), "assigned": ()}


@pytest.mark.parametrize("nmi", NO_WORKING_NMI.values(), ids=NO_WORKING_NMI)
def test_without_a_working_nmi_on_the_node_nothing_is_granted_and_the_expected_result_is_printed(nmi: NmiPods) -> None:
    explanation = explain_pod(nmi=nmi)
    assert explanation.answer.outcome is Outcome.UNANSWERED
    assert explanation.answer.identity == "ns/id"
    assert "would ask Azure for a token of AzureIdentity ns/id; but no working NMI" in explanation.answer.says
    assert only(explanation).link == "NMI"
    assert explanation.next


def test_a_refusal_that_a_missing_nmi_would_return_has_no_status() -> None:
    explanation = explain_pod(nmi=NmiPods(), assigned=(), bindings=())
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.UNANSWERED, None)
    assert "NMI would respond: held until 45 s after the first request, then 404" in explanation.answer.says


def test_an_exempt_pod_uses_imds_also_without_nmi_but_not_with_a_hanging_one() -> None:
    assert explain_pod(**UNDER, nmi=NmiPods(others=(nmi_pod("node-2"),))).answer.outcome is Outcome.EXEMPT
    hanging = explain_pod(**UNDER, nmi=NO_WORKING_NMI["not-ready"]).answer
    assert hanging.outcome is Outcome.UNANSWERED
    assert "would forward the request to IMDS" in hanging.says


def test_an_nmi_known_only_by_its_flags_counts_as_running() -> None:
    explanation = explain_pod(nmi=NmiPods(), configuration=replace(rules(), is_given=True))
    assert (explanation.answer.outcome, broken(explanation)) == (Outcome.GRANTED, [])


@pytest.mark.parametrize("azure", [HostIdentities(), GONE], ids=["absent", "no-host"])
def test_an_identity_that_is_not_on_its_host_is_not_granted(azure: HostIdentities) -> None:
    explanation = explain_pod(azure=azure)
    assert explanation.answer.outcome is Outcome.REFUSED
    assert explanation.answer.identity == "ns/id"
    link = only(explanation)
    assert link.link == "on Azure"
    assert link.says in explanation.answer.says


def test_a_grant_with_another_broken_link_mentions_it() -> None:
    other = binding("b-other", "gone")
    explanation = explain_pod(bindings=(binding(), other), azure=ATTACHED)
    assert explanation.answer.outcome is Outcome.GRANTED
    assert "something is broken: identity ns/gone" in explanation.answer.says
    assert len(broken(explanation)) == 1


def test_without_faults_the_headline_has_no_restriction() -> None:
    says = explain_pod(azure=ATTACHED).answer.says
    assert says == "NMI asks Azure for a token of AzureIdentity ns/id"
    principal = explain_pod(identities=(identity(type_=1),), assigned=(labelled(assigned_identity(type_=1)),))
    assert "none" not in principal.answer.says


def test_requests_of_a_pod_without_any_identity_are_held_for_a_time_after_the_first_one() -> None:
    says = explain_pod(assigned=(), bindings=()).answer.says
    assert says == (
        "held until 45 s after the first request, then 404: No identity is assigned to this pod; later requests get "
        "the same response immediately, until the pod's label, identities or address change"
    )


def test_every_request_is_held_while_an_identity_is_still_being_assigned() -> None:
    says = explain_pod(assigned=(labelled(assigned_identity(status="Created")),)).answer.says
    assert says.startswith("held until ")
    assert "immediately" not in says
