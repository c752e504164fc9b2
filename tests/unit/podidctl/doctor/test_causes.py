"""A cause is one finding, with what follows from it and one next action, also in the table."""

import dataclasses
import io
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from mic.startup.object_upgrade import KINDS
from podidctl.facts.kinds import ContainerState, ContainerStatus, Daemon, Event, WaitingState
from podidctl.facts.model import DaemonUses, Facts, Locks, ObjectReference, ReadFailure, Right, Rights
from podidctl.reading.daemons import unassigned_pods
from podidctl.report.documents import Report, check_result
from podidctl.report.finding import Finding, Level, by_cause, exit_code, problem, warning
from podidctl.report.findings_table import FINDINGS_MAX, show
from podidentity.report import SOMETHING_TO_DO
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, PODS, Kind
from tests.support.nmi_objects import assigned_identity, pod
from tests.support.podidctl.doctor_inputs import NOW, bad, definition, examined, mic, nmi, objects
from tests.support.podidctl.memory_cluster import MemoryCluster

ACCOUNT = "kube-system/default"
LIST = Right("list", "aadpodidentity.k8s.io", "azureidentitybindings")
NO_MIC = {
    "mic": (mic(ready=False),),
    "locks": (Locks("default", "aad-pod-identity-mic"),),
    "objects": objects(assigned=()),
}
NO_NMI = {"nmi": (nmi(ready=False),)}
NO_PODS = ReadFailure("not allowed: pods is forbidden")
NO_REVIEWS = ReadFailure("not allowed: subjectaccessreviews is forbidden")
EMPTY = objects(bindings=(), identities=(), assigned=())


def rights(program: str) -> tuple[Rights, ...]:
    return (Rights(program, ACCOUNT, (LIST,)),)


def without(kind: Kind[Any]) -> dict[str, Any]:
    return {candidate.plural: definition() if candidate is not kind else None for candidate in KINDS}


def failing(made: Daemon) -> Daemon:
    waiting = ContainerStatus(state=ContainerState(waiting=WaitingState(reason="ImagePullBackOff")))
    return replace(made, status=replace(made.status, container_statuses=[waiting]))


@pytest.mark.parametrize(
    ("changes", "check", "affected"),
    [
        (NO_MIC | {"rights": rights("MIC")}, "rights", {"MIC", "leader", "assignments"}),
        (NO_NMI | {"rights": rights("NMI")}, "rights", {"NMI"}),
        (NO_MIC, "MIC", {"leader", "assignments"}),
        (NO_MIC | {"mic": (mic(),)}, "leader", {"assignments"}),
        (NO_NMI, "NMI", set()),
        (NO_MIC | NO_NMI | {"definitions": {}, "objects": EMPTY}, "definitions", {"NMI", "MIC", "leader", "selectors"}),
        ({"nmi": NO_PODS, "mic": NO_PODS, "objects": NO_PODS}, "NMI", {"MIC", "tokens", "objects"}),
        (
            {"rights": NO_REVIEWS, "secrets": NO_REVIEWS, "daemon_uses": DaemonUses(by_reviews=NO_REVIEWS)},
            "rights",
            {"rights", "secrets"},
        ),
        ({"definitions": {kind.plural: NO_PODS for kind in KINDS}}, "definitions", set()),
    ],
    ids=[
        *("right-of-mic", "right-of-nmi", "no-mic", "no-leader", "no-nmi", "no-definitions", "list-pods", "reviews"),
        "definitions-unread",
    ],
)
def test_a_cause_is_one_finding_with_what_it_affects(changes: dict[str, Any], check: str, affected: set[str]) -> None:
    (finding,) = bad(examined(**changes))
    assert finding.check == check
    assert finding.next
    assert {effect.check for effect in finding.affects} == affected


def test_a_fault_with_another_cause_stays_a_finding() -> None:
    two = NO_NMI | {"rights": rights("MIC")}
    assert [finding.check for finding in bad(examined(**two))] == ["NMI", "rights"]
    apart = {"rights": NO_REVIEWS, "secrets": ReadFailure("not allowed: another")}
    assert [finding.check for finding in bad(examined(**apart))] == ["rights", "secrets"]
    annotations = {"aadpodidentity.k8s.io/message": "grant MIC the role"}
    refused = objects(assigned=(assigned_identity(status="Created", own_annotations=annotations),))
    assert [finding.check for finding in bad(examined(**NO_MIC | {"objects": refused}))] == ["MIC", "assignments"]


def test_a_missing_permission_explains_no_pod_of_another_account_and_none_that_does_not_run() -> None:
    elsewhere = (Rights("NMI", "kube-system/nmi-canary", (LIST,)),)
    assert [finding.check for finding in bad(examined(**NO_NMI, rights=elsewhere))] == ["NMI", "rights"]
    no_image: dict[str, dict[str, Any]] = {
        "NMI": {"nmi": (failing(nmi(ready=False)),)},
        "MIC": {"mic": (failing(mic(ready=False)),)},
    }
    for program, pods in no_image.items():
        assert [finding.check for finding in bad(examined(**pods, rights=rights(program)))] == [program, "rights"]


@pytest.mark.parametrize(
    ("kind", "checks"),
    [
        (EXCEPTIONS, ["definitions", "selectors"]),
        (ASSIGNED_IDENTITIES, ["definitions", "selectors"]),
        (IDENTITIES, ["definitions"]),
        (BINDINGS, ["definitions"]),
    ],
    ids=lambda value: value.plural if isinstance(value, Kind) else "",
)
def test_a_missing_definition_explains_selectors_only_if_bindings_need_it(kind: Kind[Any], checks: list[str]) -> None:
    typo = objects(pods=(pod(), pod("typo", label="wbe")))
    assert [finding.check for finding in bad(examined(definitions=without(kind), objects=typo))] == checks


def test_definitions_that_could_not_be_read_for_two_reasons_keep_both() -> None:
    first, *others = KINDS
    read: dict[str, Any] = {kind.plural: NO_PODS for kind in others}
    read[first.plural] = ReadFailure("500 etcd", is_forbidden=False)
    assert [finding.says.rpartition(": ")[2] for finding in bad(examined(definitions=read))] == [
        *("500 etcd", "pods is forbidden")
    ]
    read = {kind.plural: ReadFailure(f"not allowed: get {kind.plural}") for kind in KINDS}
    (finding,) = bad(examined(definitions=read))
    assert all(f"{kind.plural}: not allowed: get {kind.plural}" in finding.says for kind in KINDS)


def test_findings_that_explain_each_other_are_those_of_the_first_one() -> None:
    a = problem("a", "m", "t", cause="y", explains=("x",))
    b = problem("b", "m", "t", cause="x", explains=("y",))
    assert by_cause([a, b]) == [dataclasses.replace(a, effects=(b,))]
    c = problem("c", "m", "t", cause="y")
    assert by_cause([c, a, b]) == [dataclasses.replace(a, effects=(c, b))]


def test_the_exit_code_and_the_actions_are_also_those_of_the_effects() -> None:
    cause = warning("labels", "a typing error", "rename it", explains=("labels",))
    effect = problem("selectors", "no pod", "create the binding", cause="labels")
    report = results(cause, effect, problem("selectors", "as before", "rename it", cause="labels"))
    assert exit_code(report.levels, Level.PROBLEM) == SOMETHING_TO_DO
    assert exit_code(results(cause).levels, Level.PROBLEM) == 0
    assert [(finding.level, finding.next) for finding in report.findings[0].affects] == [
        (Level.PROBLEM, "create the binding"),
        (Level.PROBLEM, ""),
    ]
    text = " ".join(" ".join(printed(report)).split())
    assert "therefore selectors: no pod; if that remains: create the binding therefore" in text
    assert text.count("next: rename it") == text.count("rename it") == 1


def test_an_effect_has_its_own_text_without_the_reason_of_the_failed_read() -> None:
    (finding,) = bad(examined(rights=NO_REVIEWS, secrets=NO_REVIEWS, daemon_uses=DaemonUses(by_reviews=NO_REVIEWS)))
    texts = {effect.check: effect.says for effect in finding.affects}
    assert texts["secrets"] == "not checked"
    assert texts["rights"].endswith("could not be reviewed")


def printed(report: Report, width: int = 80) -> list[str]:
    output = io.StringIO()
    show(report, Console(width=width, file=output))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_at_80_columns_each_row_is_followed_by_its_action_on_one_line() -> None:
    report = examined(**NO_MIC)
    (finding,) = bad(report)
    lines = printed(report)
    at = next(number for number, line in enumerate(lines) if line.startswith("problem"))
    action = lines.index(f"  next: {finding.next}")
    assert lines[at].split(maxsplit=2)[1] == "MIC"
    assert "therefore leader: no MIC leads" in " ".join(lines[at:action])
    assert max(len(line) for line in lines if not line.startswith("  next:")) <= 80
    assert sum("next:" in line for line in lines) == 1


def results(*findings: Finding) -> Report:
    return Report(findings=[check_result(finding) for finding in by_cause(findings)])


def test_findings_with_the_same_action_are_printed_together_above_it() -> None:
    a, b = problem("unusable", "first", "do this"), problem("unusable", "second", "do this")
    lines = printed(results(a, problem("leader", "between", "do that"), b))
    assert [line.split()[-1] for line in lines] == ["first", "second", "this", "between", "that"]


def test_an_action_that_the_text_of_a_finding_ends_with_is_printed_once() -> None:
    lines = printed(results(problem("tokens", "NMI refused tokens to 1 pod: ns/web: correct it", "correct it")))
    assert lines == ["problem  tokens  NMI refused tokens to 1 pod: ns/web", "  next: correct it"]


def test_the_effects_in_the_table_are_bounded() -> None:
    cause = problem("MIC", "no MIC", "start it", explains=("assignments",))
    effects = [problem("assignments", f"reason {number}", "wait", cause="assignments") for number in range(1000)]
    report = results(cause, *effects)
    lines = printed(report)
    assert sum("therefore" in line for line in lines) == FINDINGS_MAX
    assert f"{1000 - FINDINGS_MAX} more; -o json has all of them" in " ".join(lines)
    (finding,) = report.findings
    assert (finding.level, len(finding.affects)) == (Level.PROBLEM, 1000)


LOST = "Azure has no /subscriptions/s/vm: see whether it still exists and MIC may read it, or delete its node"


def not_applied(name: str = "ns/b", minute: int = 59, reason: str = LOST, pod_name: str = "web") -> Event:
    return Event(
        reason="binding apply error",
        message=f"Binding {name} not applied on node n for pod ns/{pod_name}: {reason}",
        last_timestamp=f"2026-01-01T11:{minute:02}:00Z",
    )


AT_LENGTH = "Azure refuses MIC on /s (403 AuthorizationFailed): az role assignment create --role Owner --scope /s"


@pytest.mark.parametrize(
    ("event", "uid", "is_named"),
    [
        (not_applied(), "uid-1", True),
        (not_applied(), "uid-0", False),
        (not_applied("other/b"), "uid-1", False),
        (not_applied(minute=40), "uid-1", False),
        (replace(not_applied(), last_timestamp="2036-01-01T11:59:00Z"), "uid-1", False),
    ],
    ids=["of-the-pod", "of-an-earlier-pod", "of-another-binding", "old", "of-the-future"],
)
def test_an_event_with_mics_name_is_named_as_what_it_is_for_a_missing_assignment(
    event: Event, uid: str, *, is_named: bool
) -> None:
    (finding,) = bad(examined(objects=objects(assigned=()), unassigned={("ns/web", uid): (event,)}))
    assert (finding.check, finding.level) == ("assignments", Level.PROBLEM)
    assert (f"an Event that names MIC as its source states: {LOST}" in finding.says) is is_named
    assert ("confirm it in MIC's log" in finding.next) is is_named
    assert ("kubectl logs -n kube-system -l app.kubernetes.io/component=mic" in finding.next) is is_named
    assert LOST not in finding.next, "others than MIC may write Events"


def test_a_command_in_an_event_is_not_printed() -> None:
    events = {("ns/web", "uid-1"): (not_applied(reason=AT_LENGTH),)}
    (finding,) = bad(examined(objects=objects(assigned=()), unassigned=events))
    assert finding.says.endswith("states: Azure refuses MIC on /s (403 AuthorizationFailed)")
    assert "az role" not in finding.next
    only_command = {("ns/web", "uid-1"): (not_applied(reason="kubectl delete namespace shop"),)}
    (finding,) = bad(examined(objects=objects(assigned=()), unassigned=only_command))
    assert "Event" not in finding.says


def test_an_event_changes_nothing_for_an_assignment_that_is_not_overdue() -> None:
    fresh = objects(assigned=(), created_at={ObjectReference(PODS.plural, "ns", "web"): NOW})
    events = {("ns/web", "uid-1"): (not_applied(),)}
    assert examined(objects=fresh, unassigned=events) == examined(objects=fresh)
    assert bad(examined(objects=fresh)) == []
    assert [finding.check for finding in bad(examined(**NO_MIC, unassigned=events))] == ["MIC", "assignments"]


async def test_mics_recent_events_are_read_by_pod(cluster: MemoryCluster) -> None:
    for name, component, reason in (
        ("own", "aad-pod-identity-mic", "binding apply error"),
        ("stranger", "stranger", "binding apply error"),
        ("other", "aad-pod-identity-mic", "binding applied"),
    ):
        document = {
            "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": "u"},
            "reason": reason,
            "message": name,
            "lastTimestamp": NOW.isoformat(),
            "source": {"component": component},
        }
        cluster.api.store.create("events", document)
    events = await unassigned_pods(cluster.client, Facts(now=NOW))
    assert {key: [event.message for event in several] for key, several in events.items()} == {
        ("default/web", "u"): ["own"]
    }
