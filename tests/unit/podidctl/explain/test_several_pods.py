"""Explanations of several pods: each cause once, worst first, and an output that no tenant can make longer."""

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from podidctl.checks import explanation
from podidctl.checks.explanation import LINKS_MAX, causes_of, explain_pods
from podidctl.commands.explain import GROUPS_MAX, show
from podidctl.evaluation.pod import NAME_ONE
from podidctl.facts.model import Facts, ReadFailure
from podidctl.report import documents
from podidctl.report.documents import Link, LoggedDecision, Outcome, PodsExplanation, Served
from podidctl.report.finding import Finding, ok, problem
from podidctl.report.text import LISTED_MAX
from tests.support.nmi_objects import assigned_identity, binding, identity, pod
from tests.support.podidctl.prediction_inputs import facts, labelled

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def printed(report: PodsExplanation, columns: int = 80) -> list[str]:
    to = io.StringIO()
    show(report, Console(file=to, width=columns, emoji=False, highlight=False))
    return to.getvalue().splitlines()


def about(name: str, **changes: Any) -> Facts:
    """Facts about a pod that gets its token."""
    changes.setdefault("assigned", (labelled(assigned_identity(pod_name=name)),))
    return facts(pod=pod(name, label=changes.pop("label", "web")), **changes)


def test_each_cause_is_stated_once_that_of_most_pods_first() -> None:
    report = explain_pods(
        [
            about("lost", bindings=()),
            *(about(f"bare-{number}", label="", assigned=()) for number in range(2)),
            about("well"),
        ]
    )
    assert report.summary == report.counts == "broken: 3 of 4 pods"
    assert [(cause.link.link, cause.pods) for cause in report.causes] == [
        ("label", ["ns/bare-0", "ns/bare-1"]),
        ("binding", ["ns/lost"]),
    ]
    assert report.next == report.causes[0].link.next
    assert report.broken
    assert [(served.identity, served.pods) for served in report.served] == [("ns/id", ["ns/well"])]
    lines = printed(report)
    assert lines[0] == report.summary
    causes = [line for line in lines if line.startswith(("label: ", "binding: ", "unknown "))]
    assert sum(line.startswith("  next:") for line in lines) == len(causes) == 4
    assert "granted ns/id: 1 pod: ns/well" in lines
    assert [its.pod for its in report.pods] == ["ns/lost", "ns/bare-0", "ns/bare-1", "ns/well"]


def test_pods_without_a_fault_are_counted_by_outcome() -> None:
    report = explain_pods([about("a"), about("b")])
    assert (report.summary, report.next, report.broken) == ("granted: 2 pods", "", False)
    nothing = explain_pods((), selector="app=\x1bweb", where=" in namespace typo")
    text = "none: no running pod in namespace typo matches the selector app= web"
    assert (nothing.summary, nothing.broken) == (text, False)
    exempt = Served(outcome=Outcome.EXEMPT, identity="", pods=["ns/a"])
    assert "exempt: 1 pod: ns/a" in printed(replace(report, served=[exempt]))


def test_the_name_of_the_pod_and_the_time_in_a_text_make_no_separate_causes() -> None:
    ended = [facts(pod=pod(name, phase="Failed")) for name in ("a", "b")]
    (cause,) = explain_pods(ended).causes
    assert (cause.link.about, cause.pods) == ("none", ["ns/a", "ns/b"])
    (own,) = explain_pods(ended[:1]).causes
    assert own.pods == ["ns/a"]
    refused = []
    for name, at in (("a", "12:00:00"), ("b", "11:59:59")):
        decided = LoggedDecision(at=f"01-01 {at}", outcome="upstream_refused", status=403, error="no")
        refused.append(about(name, now=NOW, decisions=(decided,)))
    (cause,) = explain_pods(refused).causes
    assert cause.pods == ["ns/a", "ns/b"]


def test_causes_with_different_actions_are_not_merged() -> None:
    then = iter(["wait", "see MIC's log"])
    several = [about("a", bindings=()), about("b", bindings=())]
    links = [("ns/a", explain_pods(several[:1]).causes[0].link), ("ns/b", explain_pods(several[1:]).causes[0].link)]
    (merged,) = causes_of(links)
    assert merged.pods == ["ns/a", "ns/b"]
    different = causes_of([(name, replace(link, next=next(then))) for name, link in links])
    assert [(cause.pods, cause.link.next) for cause in different] == [(["ns/a"], "wait"), (["ns/b"], "see MIC's log")]


def test_an_action_that_names_the_pod_makes_no_separate_causes() -> None:
    waiting = [facts(pod=pod(name, node="", phase="Pending")) for name in ("a", "b")]
    (cause,) = explain_pods(waiting).causes
    assert cause.pods == ["ns/a", "ns/b"]
    assert "kubectl describe pod -n ns a" in cause.link.next


def test_links_that_could_not_be_read_are_printed_once_with_their_actions() -> None:
    unread = ReadFailure("not allowed: nodes")
    lines = printed(explain_pods([about(name, node=unread, azure=None) for name in ("a", "b")]), 1000)
    at = next(number for number, line in enumerate(lines) if line.startswith("unknown host: "))
    assert lines[at + 1] == "  2 pods: ns/a, ns/b"
    two = {"bindings": (binding(), binding("c", "two")), "identities": (identity(), identity("two"))}
    lines = printed(explain_pods([about(name, **two) for name in ("a", "b")]), 1000)
    at = next(number for number, line in enumerate(lines) if line.startswith("unknown choice: "))
    assert lines[at + 1 : at + 3] == ["  2 pods: ns/a, ns/b", f"  next: {NAME_ONE}"]


def test_a_fault_of_the_object_comes_before_those_of_its_pods() -> None:
    fault = problem("identity", "it is wrong", "correct it", about="ns/id")
    report = explain_pods([about("bare", label="", assigned=())], [ok("binding", "fine", about="ns/b"), fault])
    assert (report.summary, report.next) == ("broken: identity: ns/id: it is wrong", "correct it")
    assert report.counts == "broken: 1 of 1 pod"
    lines = printed(report, 200)
    assert lines[:4] == [report.summary, "next: correct it", "ok binding: ns/b: fine", "pods: broken: 1 of 1 pod"]
    assert explain_pods([about("well")], [fault]).broken
    assert not explain_pods([about("well")], [ok("binding", "fine")]).broken


@pytest.mark.parametrize("label", ["", "web"])
def test_any_number_of_pods_and_causes_gives_few_lines(label: str) -> None:
    several = [
        about(f"web-{number}", bindings=(), label=f"{label}{number}" if label else "", assigned=())
        for number in range(150)
    ]
    unread = ReadFailure("not allowed [bold]x[/]")
    report = explain_pods([*several[:-1], about("web", events=unread)], omitted=7)
    lines = printed(report, 1000)
    assert len(lines) < 4 * GROUPS_MAX
    assert max(line.count("ns/web-") for line in lines) <= LISTED_MAX
    assert "7 more pods are not explained: one run explains at most 200; select fewer with -n or -l" in lines
    assert "Events of 1 pod could not be read: not allowed [bold]x[/]" in lines
    assert report.summary == "broken: 149 of 150 pods; 7 more not explained"
    assert any("more causes and identities" in line for line in lines) is bool(label)


def test_of_a_pod_that_a_tenant_selects_by_many_bindings_only_the_first_links_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Finding] = []

    def link_of(finding: Finding) -> Link:
        made.append(finding)
        return documents.link_of(finding)

    monkeypatch.setattr(explanation, "link_of", link_of)
    foreign = tuple(binding(f"b-{number}", namespace="aaa") for number in range(2 * LINKS_MAX))
    identities = (identity(), identity(namespace="aaa", namespaced=True))
    lost = binding("z", identity_name="absent")
    report = explain_pods([about("web", bindings=(*foreign, lost), identities=identities, assigned=())])
    assert len(report.pods[0].links) == LINKS_MAX
    assert len(made) == LINKS_MAX + 1
    assert report.summary == "broken: 1 of 1 pod"
    assert report.causes[0].link.text.startswith("ns/absent: this AzureIdentity does not exist")
