"""Decisions in NMI's log and Events, as NMI's code writes them, and Secrets: a recent refusal breaks the result."""

import base64
import io
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from rich.console import Console

from _native.ready_responses import Usage
from nmi.identity.decide import none_matches
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.decisions import Decisions, Subject
from nmi.server.request import Call
from nmi.tokens.secrets import CredentialError
from podidctl.checks.explanation import DECISIONS_SHOWN
from podidctl.commands.explain import show
from podidctl.commands.token import predict
from podidctl.commands.token import show as show_token
from podidctl.evaluation.pod import MANAGEMENT_RESOURCE
from podidctl.evaluation.refusals import RECENT_SECONDS, log_time
from podidctl.facts.kinds import Event
from podidctl.facts.model import ObjectReference, ReadFailure, RecentRefusal, SecretCheck
from podidctl.facts.nmi_log import DECISIONS_MAX, decisions_of, parse_decisions
from podidctl.reading.reviews import read_secret_checks
from podidctl.report.documents import LinkState, LoggedDecision, Outcome
from podidctl.report.finding import Level
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, AzureIdentity, SecretReference
from podidentity.telemetry.logs import JsonFormatter, TextFormatter
from tests.support.nmi.server.fakes import pod_entry
from tests.support.nmi_objects import assigned_identity, binding, identity
from tests.support.podidctl.doctor_inputs import examined, objects
from tests.support.podidctl.memory_cluster import MemoryCluster
from tests.support.podidctl.prediction_inputs import broken, explain_pod, facts, labelled, only, rules

ENTRY = pod_entry()
POD = Subject(Call("10.0.0.7", "our-id", "their-id"), ENTRY)
VAULT = TokenRequest("https://vault.azure.net")
REFUSAL = Refusal(Reason.STILL_ASSIGNING, "Not yet.", "see MIC's log")

DEEP_JSON = '{"logger": ' + "[" * 100_000
DEEP_TEXT = "I1124 17:00:00.000000 nmi.server.decisions] token granted pod=" + "[" * 100_000

Written = Callable[[], str]


@pytest.fixture(params=[TextFormatter, JsonFormatter], ids=["text", "json"])
def written(request: pytest.FixtureRequest) -> Iterator[Written]:
    """Return the current content of NMI's decision log, after a line of another part of NMI."""
    output, log = io.StringIO(), logging.getLogger("nmi")
    pages, level = logging.StreamHandler(output), log.level
    pages.setFormatter(request.param())
    log.addHandler(pages)
    log.setLevel(logging.INFO)
    logging.getLogger("nmi.app").info("nmi active", extra={"pod": ENTRY.key, "uid": ENTRY.uid})
    yield output.getvalue
    log.removeHandler(pages)
    log.setLevel(level)


def about(log: str) -> tuple[LoggedDecision, ...]:
    return decisions_of(ENTRY.pod, parse_decisions(log))


def test_the_last_token_is_printed_with_its_repeats_also_if_it_is_older_than_the_log(written: Written) -> None:
    decisions, usage = Decisions(), Usage()
    decisions.granted(POD, VAULT, "shop/id", usage)
    usage.touch()
    decisions.summarize()
    (one,) = about(written())
    assert (one.outcome, one.identity, one.resource) == ("granted", "shop/id", "https://vault.azure.net")
    assert one.repeats == 1
    assert one.status is None
    (one,) = about(written().splitlines()[-1])
    assert (one.outcome, one.identity, one.repeats) == ("granted", "shop/id", 1)


def test_a_refusal_is_printed_with_its_reason_before_earlier_decisions_of_this_pod(written: Written) -> None:
    decisions = Decisions()
    decisions.granted(Subject(POD.call, pod_entry(name="till")), VAULT, "shop/id", Usage())
    decisions.granted(POD, VAULT, "shop/id", Usage())
    decisions.refused(POD, "/metadata/identity/oauth2/token", 404, REFUSAL, VAULT)
    last, first = about(written())
    assert (last.outcome, last.status, last.error) == ("still_assigning", 404, "see MIC's log")
    assert first.outcome == "granted"
    later = pod_entry(uid="a later one's")
    assert decisions_of(later.pod, parse_decisions(written())) == ()


def test_a_summary_counts_for_the_last_decision_before_it_or_else_for_the_next(written: Written) -> None:
    decisions = Decisions()
    uids = ("first", "second")
    for uid in uids:
        decisions.unanswered(Subject(POD.call, pod_entry(uid=uid)), VAULT, REFUSAL, 5.0)
    lines = written().splitlines()
    for _ in range(2):
        decisions.unanswered(Subject(POD.call, pod_entry(uid="second")), VAULT, REFUSAL, 5.0)
    decisions.summarize()
    summary = written().splitlines()[-1]
    before, *of_uids = lines[-2:]
    text = "\n".join([summary, before, summary, *of_uids, summary])
    repeats = {uid: [decision.repeats for decision in its] for (_, uid), its in parse_decisions(text).items()}
    assert repeats == {"first": [2, 2], "second": [2]}


def test_a_client_that_disconnected_is_read_with_its_repeats(written: Written) -> None:
    decisions = Decisions()
    for _ in range(3):
        decisions.unanswered(POD, VAULT, REFUSAL, 5.0)
    decisions.summarize()
    (one,) = about(written())
    assert (one.outcome, one.status, one.error, one.repeats) == ("still_assigning", None, "see MIC's log", 2)
    assert one.unanswered
    decisions.refused(POD, "/metadata/identity/oauth2/token", 404, REFUSAL, VAULT)
    assert [decision.unanswered for decision in about(written())] == [False, True]


def test_only_the_latest_decisions_are_printed(written: Written) -> None:
    decisions = Decisions()
    for number in range(DECISIONS_MAX + 2):
        decisions.granted(POD, TokenRequest(f"https://{number}.example"), "shop/id", Usage())
    read = about(written())
    assert [decision.resource for decision in read] == [
        f"https://{number}.example" for number in range(DECISIONS_MAX + 1, 1, -1)
    ]
    printed = explain_pod(decisions=read).decided
    assert [decision.resource for decision in printed] == [decision.resource for decision in read[:DECISIONS_SHOWN]]


def test_a_pod_cannot_inject_fields(written: Written) -> None:
    forged = TokenRequest('r" outcome="granted" identity="shop/admin\nI0101 00:00:00.000000 nmi.server.decisions] x')
    Decisions().refused(POD, "/p", 404, REFUSAL, forged)
    (one,) = about(written())
    assert (one.outcome, one.identity) == ("still_assigning", "")
    assert one.resource.startswith('r" outcome="granted"')


@pytest.mark.parametrize(
    "line",
    ["{", '{"logger": 1}', "[]", "I1124 17:00:00.000000 nmi.server.decisions]", "", "\x00", DEEP_JSON, DEEP_TEXT],
    ids=["cut", "number", "list", "head", "empty", "zero", "deep-json", "deep-text"],
)
def test_malformed_lines_are_skipped(line: str) -> None:
    assert about(line) == ()


def test_decisions_are_printed_as_a_table_and_a_failed_read_as_a_line() -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    one = LoggedDecision(at="11-24 17:00:00", outcome="granted", identity="shop/id", resource="\x1b[31mred", repeats=7)
    show(explain_pod(decisions=(one,)), console)
    show(explain_pod(decisions=ReadFailure("not allowed: pods/log")), console)
    text = console.export_text()
    assert "NMI's log, UTC" in text
    assert "11-24 17:00:00" in text
    assert "\x1b" not in text
    assert "NMI's log could not be read: not allowed: pods/log" in text


NOW = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
CAUSE = "check the AzureIdentity's clientID and the requested resource: AADSTS700016"


def before(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%m-%d %H:%M:%S")


def refusal(seconds: float = 60, **changes: Any) -> LoggedDecision:
    usual: dict[str, Any] = {
        "at": before(seconds),
        "decided_at": before(seconds),
        "outcome": Reason.UPSTREAM_REFUSED.value,
        "status": 403,
        "identity": "ns/id",
        "resource": MANAGEMENT_RESOURCE,
        "error": CAUSE,
    }
    return LoggedDecision(**(usual | changes))


def grant(seconds: float, resource: str = MANAGEMENT_RESOURCE) -> LoggedDecision:
    at = before(seconds)
    return LoggedDecision(at=at, decided_at=at, outcome="granted", identity="ns/id", resource=resource)


def event(seconds: float = 60, reason: str = "TokenRefused") -> Event:
    at = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Event(type="Warning", reason=reason, message=CAUSE, last_timestamp=at)


def test_a_logged_refusal_is_a_broken_link_whose_text_is_the_next_action() -> None:
    explanation = explain_pod(now=NOW, decisions=(refusal(),))
    link = only(explanation)
    assert (link.link, link.about, link.next) == ("token", "ns/id", CAUSE)
    assert "00:04:00 UTC (403 upstream_refused)" in link.says
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 403)
    assert CAUSE in explanation.answer.says
    explanation = explain_pod(now=NOW, decisions=ReadFailure("not allowed"), events=(event(),))
    assert only(explanation).next == CAUSE
    assert explanation.answer.outcome is Outcome.REFUSED
    none = none_matches("ns", SelectorKind.CLIENT_ID, "c11e0000-0000-0000-0000-00000000000b", [identity()])
    of_workload = refusal(outcome=none.reason.value, error=none.detail, identity="", status=404)
    assert "requested client id c11e…000b, bound " in only(explain_pod(now=NOW, decisions=(of_workload,))).next


def test_a_summary_of_repeats_has_the_cause_of_their_first_one() -> None:
    summary = refusal(10, identity="", resource="", error="", decided_at="", repeats=3)
    other = refusal(20, outcome=Reason.UPSTREAM_THROTTLED.value, error="another cause")
    assert only(explain_pod(now=NOW, decisions=(summary, other, refusal()))).next == CAUSE
    alone = only(explain_pod(now=NOW, decisions=(summary, other)))
    assert "see the log of NMI on the pod's node" in alone.next


@pytest.mark.parametrize(
    "changes",
    [
        {"decisions": (grant(30), refusal())},
        {"decisions": (grant(30),), "events": (event(),)},
        {"decisions": (refusal(RECENT_SECONDS + 1),)},
        {"events": (event(RECENT_SECONDS + 1),)},
        {"events": (event(reason="IdentityNotAssigned"),)},
        {"decisions": (refusal(outcome=Reason.STILL_ASSIGNING.value),)},
        {"decisions": (refusal(identity="ns/former"),)},
    ],
    ids=["later-grant", "grant-after-event", "old", "old-event", "other-event", "of-the-past", "other-identity"],
)
def test_a_resolved_or_unrelated_refusal_does_not_count(changes: dict[str, Any]) -> None:
    explanation = explain_pod(now=NOW, **changes)
    assert broken(explanation) == []
    assert explanation.answer.outcome is Outcome.GRANTED


@pytest.mark.parametrize(
    "decisions",
    [
        (refusal(), grant(90)),
        (grant(30, "https://vault.azure.net"), refusal()),
        (LoggedDecision(at=before(1), outcome="granted", identity="ns/id", repeats=3), refusal()),
    ],
    ids=["earlier-grant", "other-audience", "summary-of-repeats"],
)
def test_a_grant_that_proves_nothing_does_not_resolve_a_refusal(decisions: tuple[LoggedDecision, ...]) -> None:
    assert only(explain_pod(now=NOW, decisions=decisions)).link == "token"


@pytest.mark.parametrize("reason", [Reason.UPSTREAM_THROTTLED, Reason.UPSTREAM_UNAVAILABLE, Reason.FORWARDED])
def test_other_refusals_that_the_objects_do_not_show_are_broken_by_name(reason: Reason) -> None:
    assert reason.value in only(explain_pod(now=NOW, decisions=(refusal(outcome=reason.value),))).says


OTHER = none_matches("ns", SelectorKind.CLIENT_ID, "other", [identity()])


def test_a_pod_whose_client_disconnected_before_the_response_is_not_granted() -> None:
    left = refusal(outcome="no_matching_identity", status=None, error=OTHER.detail, unanswered=True)
    explanation = explain_pod(now=NOW, decisions=(left,))
    link = only(explanation)
    assert (link.link, link.next) == ("token", OTHER.detail)
    assert link.says.startswith("the client of the pod's last request for ")
    assert " disconnected before the response at " in link.says
    assert explanation.answer.outcome is Outcome.WAITS
    assert predict(facts(now=NOW, decisions=(left,)), MANAGEMENT_RESOURCE).outcome is Outcome.WAITS
    assert broken(explain_pod(now=NOW, decisions=(grant(30), left))) == []


TWO = identity("two", client_id="10000000-0000-4000-8000-000000000001")


@pytest.mark.parametrize("selector", [SelectorKind.CLIENT_ID, SelectorKind.RESOURCE_ID])
@pytest.mark.parametrize("requested", [TWO, identity("three", client_id="20000000-0000-4000-8000-000000000002")])
def test_a_request_for_an_identity_that_mic_had_not_assigned_yet_is_no_fault_of_the_application(
    selector: SelectorKind, requested: AzureIdentity
) -> None:
    ids = {SelectorKind.CLIENT_ID: requested.spec.client_id, SelectorKind.RESOURCE_ID: requested.spec.resource_id}
    text = none_matches("ns", selector, ids[selector].lower(), [identity()]).detail
    refused = refusal(outcome="no_matching_identity", status=404, identity="", error=text)
    made = {"identities": (identity(), TWO), "bindings": (binding(), binding("two", identity_name="two"))}
    links = [link.link for link in broken(explain_pod(now=NOW, decisions=(refused,), **made))]
    assert links == ["assigned identity"] + ["token"] * (requested is not TWO)
    found = examined(objects=objects(**made), refused={"ns/web": RecentRefusal(NOW, text)})
    (tokens,) = [finding for finding in found.findings if finding.check == "tokens"]
    assert tokens.level is (Level.OK if requested is TWO else Level.PROBLEM)
    assert ("that counts: MIC had not assigned the requested identities of ns/web" in tokens.says) is (requested is TWO)


FOREIGN = identity("two", namespace="other", client_id=TWO.spec.client_id)
ONLY_ITS_OWN = identity(
    "two",
    namespace="other",
    client_id=TWO.spec.client_id,
    annotations={"aadpodidentity.k8s.io/Behavior": "namespaced"},
)
OF_TWO = none_matches("ns", SelectorKind.CLIENT_ID, TWO.spec.client_id, [identity()]).detail
SAME_ENDS = TWO.spec.client_id.replace("-4000-", "-5000-")
OF_SAME_ENDS = none_matches("ns", SelectorKind.CLIENT_ID, SAME_ENDS, [identity(), TWO]).detail


@pytest.mark.parametrize(
    ("bound", "text", "created", "counts"),
    [
        (TWO, OF_TWO, -60, True),
        (TWO, OF_TWO, 60, False),
        (TWO, OF_TWO, None, False),
        (FOREIGN, OF_TWO, None, False),
        (ONLY_ITS_OWN, OF_TWO, None, True),
        (TWO, OF_SAME_ENDS, None, True),
    ],
    ids=["assigned-before", "assigned-since", "unassigned", "other-namespace", "namespaced", "another-id-same-ends"],
)
def test_a_request_for_a_bound_identity_counts_if_it_was_assigned_before(
    bound: AzureIdentity, text: str, created: float | None, *, counts: bool
) -> None:
    its = binding("two", namespace=bound.metadata.namespace, identity_name="two")
    of_two = () if created is None else (labelled(assigned_identity("two")),)
    made = {
        "identities": (identity(), bound),
        "bindings": (binding(), its),
        "assigned": (labelled(assigned_identity()), *of_two),
        "created_at": {
            ObjectReference(ASSIGNED_IDENTITIES.plural, *assigned.key): NOW + timedelta(seconds=created or 0)
            for assigned in of_two
        },
    }
    refused = refusal(0, outcome="no_matching_identity", status=404, identity="", error=text)
    links = broken(explain_pod(now=NOW, decisions=(refused,), **made))
    assert ("token" in [link.link for link in links]) is counts
    found = examined(objects=objects(**made), refused={"ns/web": RecentRefusal(NOW, text)})
    (level,) = [finding.level for finding in found.findings if finding.check == "tokens"]
    assert level is (Level.PROBLEM if counts else Level.OK)


@pytest.mark.parametrize(("created", "counts"), [(-60, True), (60, False)])
def test_in_managed_mode_it_counts_if_it_was_bound_before(created: float, *, counts: bool) -> None:
    made = {"identities": (identity(), TWO), "bindings": (binding(), binding("two", identity_name="two"))}
    since = {ObjectReference(BINDINGS.plural, "ns", "two"): NOW + timedelta(seconds=created)}
    refused = refusal(0, outcome="no_matching_identity", status=404, identity="", error=OF_TWO)
    managed = rules(managed=True)
    links = broken(explain_pod(now=NOW, decisions=(refused,), configuration=managed, created_at=since, **made))
    assert [link.link for link in links] == ["token"] * counts


def test_a_client_that_disconnected_while_mic_had_not_finished_does_not_count_once_it_has() -> None:
    left = refusal(outcome="still_assigning", status=None, unanswered=True)
    assert broken(explain_pod(now=NOW, decisions=(left,))) == []


def test_the_prediction_of_the_same_audience_is_a_refusal() -> None:
    data = facts(now=NOW, decisions=(refusal(),))
    report = predict(data, MANAGEMENT_RESOURCE)
    assert (report.outcome, report.status, report.why) == (Outcome.REFUSED, 403, CAUSE)
    assert predict(data, "https://vault.azure.net").outcome is Outcome.GRANTED
    console = Console(width=200, file=io.StringIO(), record=True)
    show_token(report, console)
    assert CAUSE in console.export_text()


def test_a_log_line_has_no_year_and_is_never_of_the_future() -> None:
    assert log_time("12-31 23:59:00", NOW) == datetime(2025, 12, 31, 23, 59, tzinfo=UTC)
    assert log_time("01-01 00:04:00", NOW) == datetime(2026, 1, 1, 0, 4, tzinfo=UTC)
    assert log_time("02-29 00:00:00", NOW) is None
    assert log_time("not a time", NOW) is None
    at = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
    old, new = "12-31 23:59:00", "01-01 00:01:00"
    granted = msgspec.structs.replace(grant(0), at=new, decided_at=new)
    refused = refusal(at=old, decided_at=old)
    assert broken(explain_pod(now=at, decisions=(granted, refused))) == []
    assert only(explain_pod(now=at, decisions=(refused,))).link == "token"


def test_an_event_in_the_form_of_events_k8s_io_counts_by_the_last_repeat_of_its_series() -> None:
    document = {
        "metadata": {"name": "web.1", "namespace": "ns"},
        "reason": "TokenRefused",
        "note": "not of this form",
        "message": CAUSE,
        "type": "Warning",
        "reportingComponent": "aad-pod-identity-nmi",
        "firstTimestamp": None,
        "lastTimestamp": None,
        "eventTime": "2025-12-31T20:00:00.000000Z",
        "series": {"count": 7, "lastObservedTime": "2026-01-01T00:04:00.000000Z"},
        "source": {},
    }
    one = msgspec.convert(document, Event)
    assert (one.at, one.times, one.component) == ("2026-01-01T00:04:00.000000Z", 7, "aad-pod-identity-nmi")
    explanation = explain_pod(now=NOW, events=(one,))
    assert only(explanation).next == CAUSE
    assert [(event.by, event.count) for event in explanation.events] == [("aad-pod-identity-nmi", 7)]
    bare = msgspec.convert({"firstTimestamp": "2026-01-01T00:04:00Z"}, Event)
    assert (bare.at, bare.times) == ("2026-01-01T00:04:00Z", 1)


MISSING = CredentialError("Secret ns/s does not exist: create it", code="secret_missing")


def principal(type_: int = 1) -> AzureIdentity:
    made = identity(type_=type_)
    spec = msgspec.structs.replace(
        made.spec, tenant_id="t", client_password=SecretReference(name="s", namespace="ns"), resource_id=""
    )
    return msgspec.structs.replace(made, spec=spec)


def with_check(check: SecretCheck) -> dict[str, object]:
    owned = labelled(assigned_identity())
    spec = msgspec.structs.replace(owned.spec, azure_identity_ref=principal())
    return {
        "identities": (principal(),),
        "assigned": (msgspec.structs.replace(owned, spec=spec),),
        "secrets": {("ns", "id"): check},
    }


def test_a_secret_is_broken_unknown_or_ok() -> None:
    explanation = explain_pod(**with_check(MISSING))
    link = only(explanation)
    assert (link.link, link.about, link.says, link.next) == (
        "secret",
        "ns/s",
        "Secret ns/s does not exist",
        "create it",
    )
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 403)
    report = predict(facts(**with_check(MISSING)), MANAGEMENT_RESOURCE)
    assert (report.outcome, report.status) == (Outcome.REFUSED, 403)
    explanation = explain_pod(**with_check(ReadFailure("you may not get Secret ns/s")))
    (link,) = [link for link in explanation.links if link.link == "secret"]
    assert link.state is LinkState.UNKNOWN
    assert not explanation.broken
    explanation = explain_pod(**with_check(None))
    assert [link.state for link in explanation.links if link.link == "secret"] == [LinkState.OK]
    assert explanation.answer.outcome is Outcome.GRANTED


@pytest.mark.parametrize(
    ("type_", "content", "problem"),
    [
        (1, None, "does not exist"),
        (1, {}, "is empty"),
        (1, {"secret": b""}, "has 0 bytes"),
        (1, {"secret": b"value"}, ""),
        (2, {"secret": b"value"}, "has no key `certificate`"),
        (2, {"certificate": b"value"}, ""),
    ],
)
async def test_presence_and_keys_are_checked_by_nmis_own_reader(
    cluster: MemoryCluster, type_: int, content: dict[str, bytes] | None, problem: str
) -> None:
    if content is not None:
        data = {name: base64.b64encode(value).decode() for name, value in content.items()}
        cluster.api.store.create("namespaces", {"metadata": {"name": "ns"}})
        cluster.api.store.create("secrets", {"metadata": {"name": "s", "namespace": "ns"}, "data": data})
    checks = await read_secret_checks(cluster.client, rules().settings, [identity(), principal(type_)])
    check = checks["ns", "id"]
    assert problem in str(check)
    assert (check is None) is not bool(problem)


async def test_a_caller_without_permission_does_not_make_the_secret_broken(cluster: MemoryCluster) -> None:
    cluster.api.refuse(403, "Forbidden", what="/secrets/")
    checks = await read_secret_checks(cluster.client, rules().settings, [principal()])
    assert checks["ns", "id"] == ReadFailure("you may not get Secret ns/s")
