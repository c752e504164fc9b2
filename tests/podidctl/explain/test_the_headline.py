"""The first line says nothing that a link below it contradicts."""

from dataclasses import replace

import pytest

from mic.azure.identities import GONE, Attached, HostIdentities
from podidctl.diagnosis.decision import Outcome
from podidctl.diagnosis.input import NmiPods
from tests.nmi.identity.shapes import assigned_identity, binding, exception, identity, pod, resource_id
from tests.podidctl.asked import broken, labelled, nmi_pod, only, rules, told

NOBODY = {
    "nowhere": NmiPods(),
    "elsewhere": NmiPods(elsewhere=True),
    "not-ready": NmiPods((nmi_pod(ready=False),)),
}
ATTACHED = HostIdentities(attached={resource_id("id").lower(): Attached(resource_id("id"))})
UNDER = {"pod": pod(label=None, labels={"app": "x"}), "exceptions": (exception(labels={"app": "x"}),), "assigned": ()}


@pytest.mark.parametrize("nmi", NOBODY.values(), ids=NOBODY)
def test_where_no_nmi_works_on_the_node_nothing_is_granted_and_what_would_be_is_told(nmi: NmiPods) -> None:
    explanation = told(nmi=nmi)
    assert explanation.answer.outcome is Outcome.UNANSWERED
    assert explanation.answer.identity == "ns/id"
    assert "would ask Azure for a token of AzureIdentity ns/id; but no working NMI" in explanation.answer.says
    assert only(explanation).link == "NMI"
    assert explanation.next


def test_what_an_nmi_that_is_away_would_refuse_has_no_status() -> None:
    explanation = told(nmi=NmiPods(), assigned=(), bindings=())
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.UNANSWERED, None)
    assert "NMI would respond with held for 45 s, then 404" in explanation.answer.says


def test_an_exempt_pod_is_left_to_imds_also_without_nmi_but_not_where_one_hangs() -> None:
    assert told(**UNDER, nmi=NmiPods(elsewhere=True)).answer.outcome is Outcome.EXEMPT
    hanging = told(**UNDER, nmi=NOBODY["not-ready"]).answer
    assert hanging.outcome is Outcome.UNANSWERED
    assert "would forward the request to IMDS" in hanging.says


def test_an_nmi_that_only_its_flags_tell_of_is_taken_to_run() -> None:
    explanation = told(nmi=NmiPods(), configuration=replace(rules(), is_given=True))
    assert (explanation.answer.outcome, broken(explanation)) == (Outcome.GRANTED, [])


@pytest.mark.parametrize("azure", [HostIdentities(), GONE], ids=["absent", "no-host"])
def test_an_identity_that_is_not_on_its_host_is_not_granted(azure: HostIdentities) -> None:
    explanation = told(azure=azure)
    assert explanation.answer.outcome is Outcome.REFUSED
    assert explanation.answer.identity == "ns/id"
    link = only(explanation)
    assert link.link == "on Azure"
    assert link.says in explanation.answer.says


def test_a_grant_beside_which_something_is_broken_says_so() -> None:
    other = binding("b-other", "gone")
    explanation = told(bindings=(binding(), other), azure=ATTACHED)
    assert explanation.answer.outcome is Outcome.GRANTED
    assert "something is broken: identity ns/gone" in explanation.answer.says
    assert len(broken(explanation)) == 1


def test_where_all_is_well_the_headline_has_no_but() -> None:
    says = told(azure=ATTACHED).answer.says
    assert says == "NMI asks Azure for a token of AzureIdentity ns/id"
    principal = told(identities=(identity(type_=1),), assigned=(labelled(assigned_identity(type_=1)),))
    assert "none" not in principal.answer.says
