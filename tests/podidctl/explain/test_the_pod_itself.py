"""Reasons why NMI does not recognize a pod: each such pod is reported, and its neighbour is not."""

import pytest

from podidctl.diagnosis.decision import Outcome
from podidctl.explain.schema import LinkState
from podidentity.resources import OwnerReference, Pod, PodSpec
from tests.podidctl.prediction_inputs import broken, explain_pod, only, rules
from tests.support.nmi_objects import exception, pod


@pytest.mark.parametrize(
    ("asked", "link", "says"),
    [
        (None, "pod", "this pod does not exist"),
        (pod(phase="Succeeded"), "pod", "has ended"),
        (pod(host_network=True), "address", "its node's network"),
        (pod(addresses=()), "address", "no address yet"),
        (
            Pod(metadata=pod().metadata, spec=PodSpec(), status=pod(phase="Pending").status),
            "pod",
            "not scheduled to a node yet",
        ),
    ],
    ids=["absent", "finished", "host-network", "no-address", "no-node"],
)
def test_a_pod_that_nmi_does_not_know_is_reported_with_the_reason(asked: Pod | None, link: str, says: str) -> None:
    explanation = explain_pod(pod=asked)
    assert explanation.answer.outcome is Outcome.UNSEEN
    first = broken(explanation)[0]
    assert first.link == link
    assert says in first.says


def test_two_live_pods_at_one_address_are_reported() -> None:
    other = pod("other", uid="uid-2")
    assert "another pod has its address: ns/other" in only(explain_pod(same_address_pods=(other,))).says
    assert broken(explain_pod(same_address_pods=(pod("other", uid="uid-2", deleting=True),))) == []
    ending = only(explain_pod(pod=pod(deleting=True), same_address_pods=(other,)))
    assert ending.link == "address"
    assert "this one is terminating" in ending.says
    assert "run this command for ns/other" in ending.next
    both = only(explain_pod(pod=pod(deleting=True), same_address_pods=(pod("other", uid="uid-2", deleting=True),)))
    assert "all of them are terminating" in both.says


@pytest.mark.parametrize(
    ("asked", "link", "says"),
    [
        (pod(terminated=True), "pod", "all its containers have terminated"),
        (pod(sandbox=False), "address", "sandbox is not ready"),
    ],
    ids=["terminated", "sandbox-down"],
)
def test_a_pod_that_may_have_lost_its_address_is_reported_to_get_nothing(asked: Pod, link: str, says: str) -> None:
    explanation = explain_pod(pod=asked)
    assert explanation.answer.outcome is Outcome.WAITS
    assert explanation.answer.status == 404
    first = broken(explanation)[0]
    assert first.link == link
    assert says in first.says
    assert broken(explain_pod(pod=pod(sandbox=True))) == []


def test_one_of_two_addresses_suffices_for_nmi_to_know_the_pod() -> None:
    explanation = explain_pod(
        pod=pod(addresses=("10.0.0.1", "fd00::1")), same_address_pods=(pod("other", uid="uid-2"),)
    )
    assert explanation.answer.outcome is Outcome.GRANTED
    (link,) = [each for each in explanation.links if each.link == "address"]
    assert (link.about, link.state) == ("fd00::1", LinkState.OK)
    assert "ns/other" in link.says


def test_an_exception_that_overrides_the_label_is_named() -> None:
    explanation = explain_pod(pod=pod(labels={"app": "x"}), exceptions=(exception(labels={"app": "X"}),))
    assert explanation.answer.outcome is Outcome.EXEMPT
    link = only(explanation)
    assert (link.link, link.about) == ("exception", "ns/ex")
    assert broken(explain_pod(pod=pod(labels={"app": "y"}), exceptions=(exception(labels={"app": "X"}),))) == []


def test_an_exception_that_does_not_count_exempts_no_pod() -> None:
    counts = rules(exception_namespaces=("elsewhere",))
    explanation = explain_pod(
        configuration=counts, pod=pod(labels={"app": "x"}), exceptions=(exception(labels={"app": "x"}),)
    )
    assert explanation.answer.outcome is Outcome.GRANTED


def test_a_pod_without_a_label_and_with_an_exception_is_ok() -> None:
    explanation = explain_pod(pod=pod(label=None, labels={"app": "x"}), exceptions=(exception(labels={"app": "x"}),))
    assert explanation.answer.outcome is Outcome.EXEMPT
    assert broken(explanation) == []


def test_mics_own_pod_is_exempt_and_ok() -> None:
    owner = OwnerReference(kind="ReplicaSet", name="mic-1", controller=True)
    explanation = explain_pod(
        configuration=rules(mic_namespace="ns"), pod=pod(label=None, labels={"component": "mic"}, owner=owner)
    )
    assert explanation.answer.outcome is Outcome.EXEMPT
    assert broken(explanation) == []


def test_a_mirror_pod_is_reported_with_the_reason_why_it_gets_nothing() -> None:
    explanation = explain_pod(pod=pod(mirror=True, labels={"app": "x"}), exceptions=(exception(labels={"app": "x"}),))
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 400)
    link = only(explanation)
    assert (link.link, link.about) == ("mirror pod", "ns/web")
    assert "use a DaemonSet" in link.next
