"""A recent refusal in NMI's log or Events makes the result broken, unless a later grant resolves it."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from rich.console import Console

from nmi.identity.decide import NONE_MATCHES
from nmi.refusal import Reason
from podidctl.diagnosis.decision import MANAGEMENT_RESOURCE, Outcome
from podidctl.diagnosis.input import Event, ReadFailure
from podidctl.diagnosis.nmi_log import LoggedDecision
from podidctl.diagnosis.recent_refusals import RECENT_SECONDS, log_time
from podidctl.token.command import show
from podidctl.token.prediction import predict
from tests.podidctl.prediction_inputs import broken, explain_pod, facts, only

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


def test_an_event_counts_if_the_log_cannot_be_read() -> None:
    explanation = explain_pod(now=NOW, decisions=ReadFailure("not allowed"), events=(event(),))
    assert only(explanation).next == CAUSE
    assert explanation.answer.outcome is Outcome.REFUSED


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


def test_a_request_for_another_client_id_is_broken() -> None:
    of_workload = refusal(outcome=Reason.NO_MATCHING_IDENTITY.value, error=NONE_MATCHES.detail, identity="", status=404)
    assert "compare the client id" in only(explain_pod(now=NOW, decisions=(of_workload,))).next


@pytest.mark.parametrize("reason", [Reason.UPSTREAM_THROTTLED, Reason.UPSTREAM_UNAVAILABLE, Reason.FORWARDED])
def test_other_refusals_that_the_objects_do_not_show_are_broken_by_name(reason: Reason) -> None:
    assert reason.value in only(explain_pod(now=NOW, decisions=(refusal(outcome=reason.value),))).says


def test_the_prediction_of_the_same_audience_is_a_refusal() -> None:
    data = facts(now=NOW, decisions=(refusal(),))
    report = predict(data, MANAGEMENT_RESOURCE)
    assert (report.outcome, report.status, report.why) == (Outcome.REFUSED, 403, CAUSE)
    assert predict(data, "https://vault.azure.net").outcome is Outcome.GRANTED
    console = Console(width=200, file=io.StringIO(), record=True)
    show(report, console)
    assert CAUSE in console.export_text()


def test_a_log_line_has_no_year_and_is_never_of_the_future() -> None:
    assert log_time("12-31 23:59:00", NOW) == datetime(2025, 12, 31, 23, 59, tzinfo=UTC)
    assert log_time("01-01 00:04:00", NOW) == datetime(2026, 1, 1, 0, 4, tzinfo=UTC)
    assert log_time("02-29 00:00:00", NOW) is None
    assert log_time("not a time", NOW) is None


def test_a_grant_of_the_new_year_resolves_a_refusal_of_the_old_one() -> None:
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
    assert [(each.by, each.count) for each in explanation.events] == [("aad-pod-identity-nmi", 7)]
    bare = msgspec.convert({"firstTimestamp": "2026-01-01T00:04:00Z"}, Event)
    assert (bare.at, bare.times) == ("2026-01-01T00:04:00Z", 1)
