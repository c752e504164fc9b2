"""The links from the pod to Azure: each fault is named, its neighbour is not, and the headline contradicts none."""

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from rich.console import Console

from mic.azure.identities import GONE, Attached, HostIdentities
from podidctl.commands.explain import show
from podidctl.facts.kinds import Daemon, Event, PlacedNode, PlacedNodeSpec
from podidctl.facts.model import ReadFailure
from podidctl.report.documents import Explanation, Link, LinkState, LoggedDecision, Outcome
from podidentity.azure.errors import Refused
from podidentity.resources import BareMeta, OwnerReference, Pod, PodSpec
from tests.support.nmi_objects import CLIENT_ID, NODE, assigned_identity, binding, exception, identity, pod, resource_id
from tests.support.podidctl.prediction_inputs import broken, explain_pod, labelled, nmi_pod, only, rules, states


def test_each_link_is_printed_in_order() -> None:
    explanation = explain_pod(azure=ATTACHED)
    assert states(explanation) == [
        ("pod", "ok"),
        ("address", "ok"),
        ("exception", "ok"),
        ("label", "ok"),
        ("binding", "ok"),
        ("identity", "ok"),
        ("assigned identity", "ok"),
        ("host", "ok"),
        ("on Azure", "ok"),
        ("NMI", "ok"),
    ]
    assert broken(explanation) == []
    assert (explanation.answer.outcome, explanation.answer.identity) == (Outcome.GRANTED, "ns/id")
    explanation = explain_pod()
    assert ("on Azure", "unknown") in states(explanation)
    assert broken(explanation) == []
    document = msgspec.json.encode(explain_pod()).decode()
    assert f"client id {CLIENT_ID}" in document
    explanation = explain_pod(configuration=rules(managed=True), assigned=())
    assert ("served", "ok") in states(explanation)
    assert "assigned identity" not in dict(states(explanation))
    assert explanation.answer.outcome is Outcome.GRANTED


UNPLACED = Pod(metadata=pod().metadata, spec=PodSpec(), status=pod(phase="Pending").status)


@pytest.mark.parametrize(
    ("explained", "outcome", "link", "says"),
    [
        (None, Outcome.UNSEEN, "pod", "this pod does not exist"),
        (pod(phase="Succeeded"), Outcome.UNSEEN, "pod", "has ended"),
        (pod(host_network=True), Outcome.UNSEEN, "address", "its node's network"),
        (pod(addresses=()), Outcome.UNSEEN, "address", "no address yet"),
        (UNPLACED, Outcome.UNSEEN, "pod", "not scheduled to a node yet"),
        (pod(terminated=True), Outcome.WAITS, "pod", "all its containers have terminated"),
        (pod(sandbox=False), Outcome.WAITS, "address", "sandbox is not ready"),
    ],
    ids=["absent", "finished", "host-network", "no-address", "no-node", "terminated", "sandbox-down"],
)
def test_a_pod_without_an_address_that_is_its_own_is_reported(
    explained: Pod | None, outcome: Outcome, link: str, says: str
) -> None:
    explanation = explain_pod(pod=explained)
    assert explanation.answer.outcome is outcome
    assert explanation.answer.status == (404 if outcome is Outcome.WAITS else None)
    first = broken(explanation)[0]
    assert first.link == link
    assert says in first.says
    assert broken(explain_pod(pod=pod(sandbox=True))) == []


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
    explanation = explain_pod(
        pod=pod(addresses=("10.0.0.1", "fd00::1")), same_address_pods=(pod("other", uid="uid-2"),)
    )
    assert explanation.answer.outcome is Outcome.GRANTED
    (link,) = [link for link in explanation.links if link.link == "address"]
    assert (link.about, link.state) == ("fd00::1", LinkState.OK)
    assert "ns/other" in link.says


def test_an_exception_that_overrides_the_label_is_named() -> None:
    explanation = explain_pod(pod=pod(labels={"app": "x"}), exceptions=(exception(labels={"app": "X"}),))
    assert explanation.answer.outcome is Outcome.EXEMPT
    link = only(explanation)
    assert (link.link, link.about) == ("exception", "ns/ex")
    assert broken(explain_pod(pod=pod(labels={"app": "y"}), exceptions=(exception(labels={"app": "X"}),))) == []
    counts = rules(exception_namespaces=("elsewhere",))
    explanation = explain_pod(
        configuration=counts, pod=pod(labels={"app": "x"}), exceptions=(exception(labels={"app": "x"}),)
    )
    assert explanation.answer.outcome is Outcome.GRANTED
    explanation = explain_pod(pod=pod(label=None, labels={"app": "x"}), exceptions=(exception(labels={"app": "x"}),))
    assert explanation.answer.outcome is Outcome.EXEMPT
    assert broken(explanation) == []


def test_mics_own_pod_is_exempt_and_a_mirror_pod_gets_nothing() -> None:
    owner = OwnerReference(kind="ReplicaSet", name="mic-1", controller=True)
    explanation = explain_pod(
        configuration=rules(mic_namespace="ns"), pod=pod(label=None, labels={"component": "mic"}, owner=owner)
    )
    assert explanation.answer.outcome is Outcome.EXEMPT
    assert broken(explanation) == []
    explanation = explain_pod(pod=pod(mirror=True, labels={"app": "x"}), exceptions=(exception(labels={"app": "x"}),))
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 400)
    link = only(explanation)
    assert (link.link, link.about) == ("mirror pod", "ns/web")
    assert "use a DaemonSet" in link.next


NO_WORKING_NMI = {
    "nowhere": (),
    "elsewhere": (nmi_pod("node-2"),),
    "not-ready": (nmi_pod(ready=False),),
}
ATTACHED = HostIdentities(attached={resource_id("id").lower(): Attached(resource_id("id"))})
CHANGING = HostIdentities(attached=ATTACHED.attached, provisioning_state="Updating")
ELSEWHERE = PlacedNode(metadata=BareMeta(name=NODE), spec=PlacedNodeSpec(provider_id="kind://x"))
UNDER = {"pod": pod(label=None, labels={"app": "x"}), "exceptions": (exception(labels={"app": "x"}),), "assigned": ()}


@pytest.mark.parametrize("nmi", NO_WORKING_NMI.values(), ids=NO_WORKING_NMI)
def test_without_a_working_nmi_on_the_node_nothing_is_granted_and_the_expected_result_is_printed(
    nmi: tuple[Daemon, ...],
) -> None:
    explanation = explain_pod(nmi=nmi)
    assert explanation.answer.outcome is Outcome.UNANSWERED
    assert explanation.answer.identity == "ns/id"
    assert "would ask Azure for a token of AzureIdentity ns/id; but no working NMI" in explanation.answer.says
    assert only(explanation).link == "NMI"
    assert explanation.next


def test_a_refusal_that_a_missing_nmi_would_return_has_no_status() -> None:
    explanation = explain_pod(nmi=(), assigned=(), bindings=())
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.UNANSWERED, None)
    assert "NMI would respond: held until 45 s after the first request, then 404" in explanation.answer.says
    explanation = explain_pod(nmi=(), configuration=replace(rules(), is_given=True))
    assert (explanation.answer.outcome, broken(explanation)) == (Outcome.GRANTED, [])


def test_an_exempt_pod_uses_imds_also_without_nmi_but_not_with_a_hanging_one() -> None:
    assert explain_pod(**UNDER, nmi=(nmi_pod("node-2"),)).answer.outcome is Outcome.EXEMPT
    hanging = explain_pod(**UNDER, nmi=NO_WORKING_NMI["not-ready"]).answer
    assert hanging.outcome is Outcome.UNANSWERED
    assert "would forward the request to IMDS" in hanging.says


@pytest.mark.parametrize("azure", [HostIdentities(), GONE], ids=["absent", "no-host"])
def test_an_identity_that_is_not_on_its_host_is_not_granted(azure: HostIdentities) -> None:
    explanation = explain_pod(azure=azure)
    assert explanation.answer.outcome is Outcome.REFUSED
    assert explanation.answer.identity == "ns/id"
    link = only(explanation)
    assert link.link == "on Azure"
    assert link.says in explanation.answer.says


def test_the_headline_states_what_a_request_gets() -> None:
    says = explain_pod(azure=ATTACHED).answer.says
    assert says == "NMI asks Azure for a token of AzureIdentity ns/id"
    principal = explain_pod(identities=(identity(type_=1),), assigned=(labelled(assigned_identity(type_=1)),))
    assert "none" not in principal.answer.says
    other = binding("b-other", "gone")
    explanation = explain_pod(bindings=(binding(), other), azure=ATTACHED)
    assert explanation.answer.outcome is Outcome.GRANTED
    assert "something is broken: identity ns/gone" in explanation.answer.says
    assert len(broken(explanation)) == 1
    says = explain_pod(assigned=(), bindings=()).answer.says
    assert says == (
        "held until 45 s after the first request, then 404: No identity is assigned to this pod; later requests get "
        "the same response immediately, until the pod's label, identities or address change"
    )
    says = explain_pod(assigned=(labelled(assigned_identity(status="Created")),)).answer.says
    assert says.startswith("held until ")
    assert "immediately" not in says


KEY = resource_id("id").lower()


def link_of(name: str, **changes: object) -> Link:
    (link,) = [link for link in explain_pod(**changes).links if link.link == name]
    return link


@pytest.mark.parametrize(
    ("name", "about", "state", "says"),
    [
        ("on Azure", {"azure": ATTACHED}, LinkState.OK, "it is on vm-1"),
        ("on Azure", {"azure": HostIdentities()}, LinkState.BROKEN, "is not attached to vm-1"),
        ("on Azure", {"azure": CHANGING}, LinkState.UNKNOWN, "is in progress"),
        ("on Azure", {"azure": GONE}, LinkState.BROKEN, "Azure has no /subscriptions/s/"),
        ("on Azure", {"azure": Refused("no", status=403, code="Auth")}, LinkState.UNKNOWN, "403 Auth"),
        ("on Azure", {"azure": None}, LinkState.UNKNOWN, "Azure was not asked"),
        ("host", {"node": None}, LinkState.BROKEN, "no such node"),
        ("host", {"node": PlacedNode(metadata=BareMeta(name=NODE))}, LinkState.BROKEN, "it has no providerID"),
        ("host", {"node": ELSEWHERE}, LinkState.BROKEN, "'kind://x'"),
        ("host", {"node": ReadFailure("not allowed: nodes")}, LinkState.UNKNOWN, "not allowed: nodes"),
    ],
)
def test_the_state_of_host_and_identity_on_azure(name: str, about: dict[str, Any], state: LinkState, says: str) -> None:
    link = link_of(name, **about)
    assert link.state is state
    assert says in link.says
    assert link.about == "id" or name == "host"


def test_an_nmi_that_is_not_ready_is_reported_with_its_pod() -> None:
    link = only(explain_pod(nmi=(nmi_pod(ready=False),)))
    assert (link.link, link.about) == ("NMI", "kube-system/nmi-x")
    assert "kubectl logs -n kube-system nmi-x" in link.next
    assert link_of("NMI", nmi=ReadFailure("not allowed")).state is LinkState.UNKNOWN


def test_an_unused_identity_is_not_required_on_azure() -> None:
    former = labelled(assigned_identity("old", pod_uid="uid-0"))
    removed = labelled(assigned_identity("gone", deleting=True))
    far = {"bindings": (binding(), binding(namespace="far")), "identities": (identity(), identity(namespace="far"))}
    links = explain_pod(
        **far,
        configuration=rules(force_namespaced=True),
        assigned=(labelled(assigned_identity()), former, removed),
        azure=ATTACHED,
    ).links
    assert [link.about for link in links if link.link == "on Azure"] == ["id"]
    links = explain_pod(
        identities=(identity(type_=1),), assigned=(labelled(assigned_identity(type_=1)),), node=None
    ).links
    assert "host" not in {link.link for link in links}


@pytest.mark.parametrize("managed", [False, True], ids=["standard", "managed"])
def test_a_client_id_of_another_identity_is_reported_with_both_ids(managed: bool) -> None:
    other = "0b000000-0000-0000-0000-000000000002"
    azure = HostIdentities(attached={KEY: Attached(resource_id("id"), other)})
    explanation = explain_pod(azure=azure, configuration=rules(managed=managed))
    link = only(explanation)
    assert (link.link, link.about) == ("client id", "ns/id")
    assert other in link.says
    assert CLIENT_ID in link.says
    assert other in explanation.answer.says
    right = HostIdentities(attached={KEY: Attached(resource_id("id"), CLIENT_ID.upper())})
    assert "client id" not in {
        link.link for link in explain_pod(azure=right, configuration=rules(managed=managed)).links
    }


def printed(explanation: Explanation, *, width: int, terminal: bool) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=terminal, color_system=None)
    show(explanation, console)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().splitlines()


def test_the_first_line_is_the_cause_and_the_second_one_the_next_action() -> None:
    missing = explain_pod(bindings=(binding(selector="Web"),), assigned=())
    first, second, *_ = printed(missing, width=80, terminal=True)
    assert first == "broken: binding: no AzureIdentityBinding has selector 'web'; ns/b selects 'Web'"
    assert second == f"next: {only(missing).next}"
    assert (missing.summary, explain_pod(azure=ATTACHED).summary) == (first, "granted: ns/id")
    assert printed(explain_pod(), width=80, terminal=True)[0] == "granted: ns/id"


@pytest.mark.parametrize("terminal", [True, False])
def test_in_a_terminal_no_value_of_the_table_takes_more_than_two_lines(*, terminal: bool) -> None:
    long = explain_pod(bindings=(binding("x" * 200),))
    lines = printed(long, width=80, terminal=terminal)
    (row,) = [number for number, line in enumerate(lines) if line.split()[1:2] == ["binding"]]
    (after,) = [number for number, line in enumerate(lines) if line.split()[1:2] == ["identity"]]
    assert (after - row <= 2) is terminal
    assert ("…" in lines[row + 1]) is terminal
    assert all(len(line) <= 80 for line in lines[row:after])


@pytest.mark.parametrize("text", ["[bold]x[/]", "[/red]", "C:\\[A-Z]", "ends with \\", "[link=https://x]y[/link]"])
def test_texts_of_others_are_printed_as_they_are(text: str) -> None:
    at = "2026-01-01T00:04:00Z"
    event = Event(type="Warning", reason="TokenRefused", message=text, last_timestamp=at)
    decision = LoggedDecision(at="01-01 00:04:00", decided_at="01-01 00:04:00", outcome="policy", error=text)
    for changes in ({"events": (event,)}, {"decisions": (decision,)}):
        lines = printed(explain_pod(now=datetime(2026, 1, 1, 0, 5, tzinfo=UTC), **changes), width=200, terminal=False)
        assert lines[0].endswith(f": {text}")
        assert lines[1] == f"next: {text}"
