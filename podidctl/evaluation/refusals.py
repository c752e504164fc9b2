"""Refusals of the last minutes that no later grant resolves, from NMI's log and its Events. Pure.

The prediction (`pod`) ends before the request to Azure. Only NMI's own record shows that Azure, a Secret or the
workload's request is at fault.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from mic.decisions.documents import APPLY_ERROR
from nmi.error_refusals import CREDENTIAL_CODES
from nmi.identity.decide import OTHER_REQUESTED, requested_text
from nmi.identity.request import SelectorKind
from nmi.pod_events import TOKEN_REFUSED
from nmi.refusal import Reason
from nmi.server.decision_lines import EXEMPT, GRANTED, REPORT_AGAIN_SECONDS
from podidctl.evaluation.pod import PodCase
from podidctl.facts.kinds import Event, parse_time
from podidctl.facts.model import Facts, RecentRefusal, readable
from podidctl.report.documents import LoggedDecision

NO_CAUSE: Final = "see the log of NMI on the pod's node for the cause: kubectl logs"
"""Text of a refusal whose own line is not among the read ones."""
RECENT_SECONDS: Final = REPORT_AGAIN_SECONDS + 60.0
"""While a refusal continues, NMI records it again within this time."""
_COMMAND: Final = re.compile(r"\b(?:az|kubectl)\s")
_LASTING: Final = frozenset(
    {
        Reason.UPSTREAM_REFUSED,
        Reason.UPSTREAM_UNAVAILABLE,
        Reason.UPSTREAM_THROTTLED,
        Reason.POLICY,
        Reason.OVERLOADED,
        Reason.UNKNOWN_OBJECT_ID,
        Reason.BAD_PARAMETERS,
        Reason.FORWARDED,
        Reason.DISGUISED_PATH,
        Reason.NOT_REDIRECTED,
        Reason.METHOD_NOT_ALLOWED,
    }
)
"""Refusals with causes that the objects in the cluster do not show. The prediction reports the other causes."""


def recent_refusal(case: PodCase, *, identity: str, resource: str = "") -> RecentRefusal | None:
    """Return the latest refusal of a token of *identity* (`namespace/name`), or None. *resource*: only for this
    audience.
    """
    facts = case.facts
    decisions = [
        decision
        for decision in readable(facts.decisions)
        if not names_unassigned(case, decision.error, log_time(decision.at, facts.server_time))
    ]
    events = readable(facts.events)
    logged = next(_unresolved(decisions, facts.server_time, identity, resource), None)
    if logged is not None:
        return logged
    if resource and decisions:
        return None  # an Event does not name the audience, and the log is the better source
    return unresolved_event(events, decisions, facts.server_time)


def logged_refusal(decisions: Iterable[LoggedDecision], now: datetime) -> RecentRefusal | None:
    """Return the latest refusal in *decisions* about one pod, of any identity, or None."""
    return next(_unresolved(decisions, now, "", ""), None)


def unresolved_event(
    events: Iterable[Event], decisions: Iterable[LoggedDecision], now: datetime
) -> RecentRefusal | None:
    """Return the refusal of the latest recent Event without a later grant in *decisions*, or None."""
    granted = [
        at for decision in decisions if _is_grant(decision) and (at := log_time(decision.decided_at, now)) is not None
    ]
    for event in events:
        at = parse_time(event.at)
        if event.reason != TOKEN_REFUSED or at is None or not _is_recent(at, now):
            continue
        # The latest Event decides: a grant after it is also after all others.
        return None if any(granted_at >= at for granted_at in granted) else RecentRefusal(at, event.message)
    return None


def names_unassigned(case: PodCase, text: str, at: datetime | None) -> bool:
    """Return whether *text*, of a refusal at that time, is about a request for an identity of the pod's bindings that
    MIC had not assigned yet: another check reports it until MIC has.
    """
    if at is None or not text.startswith(OTHER_REQUESTED):
        return False
    requested, _, known = text.partition(", bound ")
    return any(
        requested
        in {
            requested_text(SelectorKind.CLIENT_ID, identity.spec.client_id.lower()),
            requested_text(SelectorKind.RESOURCE_ID, identity.spec.resource_id.lower()),
        }
        # NMI shortens the ids: if it knew this identity, the request named another one.
        and f"({'/'.join(identity.key)})" not in known
        and not case.knows(identity, at)
        for identity in case.bound
    )


def is_of_credential(refusal: RecentRefusal) -> bool:
    """Return whether Entra ID refused the credential in a Secret."""
    return any(code in refusal.text for code in CREDENTIAL_CODES)


def is_latest(facts: Facts, refusal: RecentRefusal) -> bool:
    """Return whether NMI's log has *refusal* and no later decision about the pod."""
    times = [log_time(decision.at, facts.server_time) for decision in readable(facts.decisions)]
    return bool(refusal.reason) and not any(at is not None and at > refusal.at for at in times)


def assignment_failure(events: Iterable[Event], now: datetime, bindings: Collection[str]) -> str:
    """Return what the latest Event of the last minutes states about why the identity of these *bindings*
    (`namespace/name`) is not assigned to the pod, without a command; empty if there is none. Anyone with permission to
    create Events in the namespace can write one with MIC's name.
    """
    for event in events:
        if event.reason != APPLY_ERROR or not is_recent(event, now):
            continue
        head, _, reason = event.message.partition(": ")
        if any(head.startswith(f"Binding {binding} not applied ") for binding in bindings):
            stated = _COMMAND.split(reason, maxsplit=1)[0].rstrip(" :;,")
            return f"an Event that names MIC as its source states: {stated}" if stated else ""
    return ""


def _unresolved(
    decisions: Iterable[LoggedDecision], now: datetime, identity: str, resource: str
) -> Iterator[RecentRefusal]:
    grants: list[LoggedDecision] = []
    latest_first = list(decisions)
    for number, decision in enumerate(latest_first):
        if _is_grant(decision):
            grants.append(decision)
            continue
        at = log_time(decision.at, now)
        if at is None or not _is_recent(at, now) or not _is_lasting(decision):
            continue
        # A refusal before NMI's choice names no identity or audience, so it counts for each.
        if (identity and decision.identity not in {"", identity}) or (
            resource and decision.resource not in {"", resource}
        ):
            continue
        if any(_resolves(grant, decision, now) for grant in grants):
            continue
        # A count of repeats has no text, and the line that has it may be older than the part which was read.
        text = decision.error or _earlier_error(decision, latest_first[number + 1 :]) or NO_CAUSE
        yield RecentRefusal(
            at, text, decision.outcome, decision.status, decision.identity, decision.resource, decision.unanswered
        )


def _earlier_error(summary: LoggedDecision, earlier: Iterable[LoggedDecision]) -> str:
    """Return the cause of the refusals that *summary* counts: NMI logs it with the first one only."""
    return next((decision.error for decision in earlier if decision.outcome == summary.outcome and decision.error), "")


def _is_grant(decision: LoggedDecision) -> bool:
    return decision.outcome in {GRANTED, EXEMPT}


def _is_lasting(decision: LoggedDecision) -> bool:
    return decision.outcome in _LASTING or decision.error.startswith(OTHER_REQUESTED)


def _resolves(grant: LoggedDecision, refusal: LoggedDecision, now: datetime) -> bool:
    """Return whether the later *grant* shows that the cause of *refusal* is corrected.

    A summary counts repeats from before its time too, so only the grant's own line counts.
    """
    granted, refused = log_time(grant.decided_at, now), log_time(refusal.decided_at or refusal.at, now)
    is_later = granted is not None and (refused is None or granted >= refused)
    # A grant for one audience does not prove that Azure grants another.
    return is_later and refusal.resource in {"", grant.resource}


def is_recent(event: Event, now: datetime) -> bool:
    """Return whether *event* is of the last minutes."""
    at = parse_time(event.at)
    return at is not None and _is_recent(at, now)


def _is_recent(at: datetime, now: datetime) -> bool:
    """Return whether *at* is within RECENT_SECONDS of *now*, before or after it, because clocks differ."""
    return abs(now - at) <= timedelta(seconds=RECENT_SECONDS)


def log_time(at: str, now: datetime) -> datetime | None:
    """Return the time of a log line, which has no year: the latest one that is at most a day after *now*."""
    # Shortly before a new year the clock of the node may already be in it.
    for year in (now.year + 1, now.year, now.year - 1):
        try:
            time = datetime.strptime(f"{year}-{at}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        # 29 February does not exist in every year.
        except ValueError:
            continue
        if time <= now + timedelta(days=1):
            return time
    return None
