"""The decision log: one line for each new grant or refusal, or request whose client disconnected before its response.
Repeats are counted and summarized.

A node may answer a hundred thousand requests per second, and any pod may send bad ones. The number of log lines must
not depend on either: repeated decisions are only counted, and the lines per period are limited per subject (a pod,
else an address) and in total. `summarize`, called once per period, logs the counts. A logged refusal is also reported
to the pod's owner (`report`), and again while it continues.
"""

import logging
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from itertools import islice
from typing import Final

import msgspec

from _native.ready_responses import Usage
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.decision_lines import EXEMPT, GRANTED, LOGGER, REFUSED, REPORT_AGAIN_SECONDS, UNANSWERED
from nmi.server.request import Call
from podidentity.telemetry.logs import has_own_limit

log = logging.getLogger(LOGGER)
log.addFilter(has_own_limit)

PERIOD_SECONDS: Final = 60.0
REMEMBERED_MAX: Final = 4096
"""Decisions of 250 pods, SUBJECT_SHARE each."""
SUBJECT_SHARE: Final = 16
"""A subject with more decisions than this replaces only its own."""
LINES_PER_SUBJECT: Final = 20
LINES_PER_PERIOD: Final = 500
SHOWN_CHARS: Final = 128
"""The maximum length of a text that a pod chose."""
DEFECTS_MAX: Final = 64
_SELECTOR_NAMES: Final = {kind: kind.name for kind in SelectorKind}
_ORDINARY: Final = frozenset({Reason.METADATA_HEADER_MISSING, Reason.UNKNOWN_PATH})
"""SDKs send such probes each time a program starts."""


class _LastOutcome(msgspec.Struct):
    outcome: str
    identity: str = ""
    repeats: int = 0
    usage: Usage | None = None
    """Counts the repeats that the fast lane answers, and all repeats of a grant."""
    left_out: bool = False
    """Whether the line limit suppressed its line: the next repeat that is recorded is logged as new."""
    uid: str = ""
    """The pod's uid. A pod that was created again under its name, as in a StatefulSet, needs a line of its own."""
    cause: str = ""
    """The cause of a refused token request: one reason may have another cause after a correction."""
    report_at: float = float("-inf")
    """The time of the next report if the refusal continues, in the clock's seconds."""
    grant: "_LastOutcome | None" = None
    """The grant before a refusal. The fast lane may still serve its token, for example after a refused refresh."""


class Subject(msgspec.Struct, frozen=True):
    """The caller of a request: a known pod, else an address only."""

    call: Call
    entry: PodEntry | None = None
    """The pod at the peer's address."""
    pod: str = ""
    """`namespace/name` of a pod that a process of the node named, if the pod is not at the peer address."""
    uid: str = ""

    @property
    def key(self) -> str:
        """The key of the line limit: names that a process of the node invents count for its own address."""
        return self.call.peer if self.entry is None else self.entry.key

    @property
    def fields(self) -> dict[str, str | None]:
        """The fields of a log line."""
        pod, uid = (self.pod, self.uid) if self.entry is None else (self.entry.key, self.entry.uid)
        call = self.call
        return {
            "pod": pod,
            "namespace": pod.partition("/")[0] or None,
            "uid": uid or None,
            "peer": call.peer,
            "request": call.request_id,
            "client_request": call.client_request_id or None,
        }


class Decisions:
    """Recent decisions, which distinguish a new decision from a repeat. All memory is bounded."""

    def __init__(
        self,
        *,
        report: Callable[[PodEntry, Refusal], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*report* is called with logged refusals of known pods. It must neither block nor raise. If it returns False,
        it is called again with a repeat after a period.
        """
        self._report = report
        self._clock = clock
        self._remembered: OrderedDict[str, OrderedDict[tuple[str, ...], _LastOutcome]] = OrderedDict()
        """By subject and topic, the latest ones last."""
        self._number = 0
        """How many these are."""
        self._large: dict[str, None] = {}
        """The subjects with more than their share."""
        self._lines: Counter[str] = Counter()
        self._lines_in_all = 0
        self._left_out = 0
        self._replaced: Counter[tuple[str, str, str]] = Counter()
        """The repeats in this period of replaced decisions, by subject, identity and outcome."""
        self._defects: Counter[str] = Counter()

    def granted(
        self, subject: Subject, request: TokenRequest, identity: str, usage: Usage, correlation: str = ""
    ) -> None:
        """Record a granted token. *usage* counts the repeats, also those of the fast lane."""
        if self._is_new(subject, _topic(request), GRANTED, identity, usage):
            log.info(
                "token granted; repeats are summarized once a minute",
                extra={
                    **subject.fields,
                    "identity": identity,
                    "resource": shown(request.resource),
                    "outcome": GRANTED,
                    "correlation": correlation or None,
                },
            )

    def passed(self, subject: Subject, request: TokenRequest, status: int) -> None:
        """Record IMDS's own response to a token request of an exempt pod."""
        if self._is_new(subject, (*_topic(request), str(status)), EXEMPT):
            log.info(
                "token request forwarded to IMDS because an exception applies to the pod",
                extra={
                    **subject.fields,
                    "resource": shown(request.resource),
                    "status": status,
                    "outcome": EXEMPT,
                },
            )

    def refused(
        self, subject: Subject, path: str, status: int, refusal: Refusal, request: TokenRequest | None
    ) -> Usage:
        """Record a refused request. Of its text, only the values in *request* may appear in the log.

        Return the counter of the repeats that the fast lane answers.
        """
        reason = str(refusal.reason)
        # Without a request, the pod chooses the cause: each of two alternating defects would be new.
        topic, cause = ((path, reason), "") if request is None else (_topic(request), refusal.cause or refusal.sentence)
        remembered, is_new = self._record(subject, topic, reason, cause=cause)
        if is_new:
            log.log(
                logging.INFO if refusal.reason in _ORDINARY else logging.WARNING,
                "request refused; follow the field error",
                extra={
                    **subject.fields,
                    "identity": refusal.identity or None,
                    "path": path,
                    "status": status,
                    "outcome": REFUSED,
                    "reason": reason,
                    "error": refusal.detail or refusal.sentence,
                    "resource": "" if request is None else shown(request.resource),
                    "correlation": refusal.correlation or None,
                },
            )
        self._report_refusal(subject, remembered, refusal)
        if remembered.usage is None:
            remembered.usage = Usage()
        return remembered.usage

    def unanswered(self, subject: Subject, request: TokenRequest, refusal: Refusal, seconds: float) -> None:
        """Record that the client disconnected after *seconds*; *refusal*: the response at the end of its wait.

        This replaces no grant or refusal: other clients of the pod may get their responses at the same time.
        """
        topic, cause = (*_topic(request), UNANSWERED), refusal.cause or refusal.sentence
        _, is_new = self._record(subject, topic, f"{UNANSWERED} {refusal.reason}", cause=cause)
        if is_new:
            log.warning(
                "client disconnected before the response; follow the field error",
                extra={
                    **subject.fields,
                    "outcome": UNANSWERED,
                    "reason": str(refusal.reason),
                    "seconds": round(seconds, 1),
                    "error": refusal.detail or refusal.sentence,
                    "resource": shown(request.resource),
                },
            )

    def _report_refusal(self, subject: Subject, remembered: _LastOutcome, refusal: Refusal) -> None:
        """Report a recorded refusal to the pod's owner unless it was reported recently."""
        if self._report is None or subject.entry is None or refusal.reason in _ORDINARY or remembered.left_out:
            return
        now = self._clock()
        if now >= remembered.report_at:
            reported = self._report(subject.entry, refusal)
            remembered.report_at = now + (REPORT_AGAIN_SECONDS if reported else PERIOD_SECONDS)

    def failed(self, subject: Subject, error: BaseException) -> None:
        """Record a defect: log the traceback once per source line, then count."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__
        if place not in self._defects and len(self._defects) < DEFECTS_MAX:
            log.error(
                "request failed because of a defect; report it with this traceback",
                exc_info=error,
                extra=subject.fields,
            )
        if place in self._defects or len(self._defects) < DEFECTS_MAX:
            self._defects[place] += 1

    def state(self) -> dict[str, object]:
        return {
            "remembered": self._number,
            "lines_this_period": self._lines_in_all,
            "left_out_this_period": self._left_out,
            "defects": dict(self._defects),
        }

    def summarize(self) -> None:
        """Log the repeats since the last call, per pod and identity, and start a new period."""
        repeats, self._replaced = self._replaced, Counter()
        left_out = self._left_out
        served: dict[int, tuple[Usage, _LastOutcome, dict[str, None]]] = {}
        last = [(subject, entry) for subject, several in self._remembered.items() for entry in several.values()]
        last += [(subject, entry.grant) for subject, entry in last if entry.grant is not None]
        for subject, entry in last:
            repeats[subject, entry.identity, entry.outcome] += entry.repeats
            entry.repeats = 0
            if entry.left_out and entry.usage is not None:
                left_out += entry.usage.take()
            elif entry.usage is not None:
                served.setdefault(id(entry.usage), (entry.usage, entry, {}))[2][subject] = None
        for usage, entry, subjects in served.values():
            repeats[_named(subjects), entry.identity, entry.outcome] += usage.take()
        # This drops the counts of zero.
        repeats = +repeats
        for (subject, identity, outcome), count in repeats.most_common(LINES_PER_PERIOD):
            log.info(
                "decisions repeated since the last summary; the first of each has its own line",
                extra={"pod": subject, "identity": identity, **_outcome(outcome), "count": count},
            )
        left_out += sum(count for _, count in repeats.most_common()[LINES_PER_PERIOD:])
        if left_out:
            log.warning("decisions omitted from this log; see the metric nmi_refusals", extra={"count": left_out})
        self._left_out = 0
        self._lines_in_all = 0
        self._lines.clear()

    def _is_new(
        self, subject: Subject, topic: tuple[str, ...], outcome: str, identity: str = "", usage: Usage | None = None
    ) -> bool:
        """Count the decision and return whether to write a line now."""
        return self._record(subject, topic, outcome, identity, usage)[1]

    def _record(
        self,
        subject: Subject,
        topic: tuple[str, ...],
        outcome: str,
        identity: str = "",
        usage: Usage | None = None,
        *,
        cause: str = "",
    ) -> tuple[_LastOutcome, bool]:
        """Count the decision. Return its entry, and whether to write a line now."""
        subject_key = subject.key
        several = self._remembered.setdefault(subject_key, OrderedDict())
        self._remembered.move_to_end(subject_key)
        entry = several.get(topic)
        uid = subject.uid if subject.entry is None else subject.entry.uid
        same = (outcome, identity, uid, cause)
        if entry is not None and not entry.left_out and (entry.outcome, entry.identity, entry.uid, entry.cause) == same:
            if usage is None:
                entry.repeats += 1  # Usage counts repeated grants of both lanes
            elif entry.usage is not usage:
                entry.repeats += entry.usage.take() if entry.usage is not None else 0
                entry.usage = usage
            several.move_to_end(topic)
            return entry, False
        self._number += entry is None
        grant = self._replace(subject_key, entry, outcome, usage)
        entry = several[topic] = _LastOutcome(outcome, identity, usage=usage, uid=uid, cause=cause, grant=grant)
        several.move_to_end(topic)
        if len(several) > SUBJECT_SHARE:
            self._large[subject_key] = None
        if self._number > REMEMBERED_MAX:
            self._forget(subject_key)
        if self._lines[subject_key] >= LINES_PER_SUBJECT or self._lines_in_all >= LINES_PER_PERIOD:
            self._left_out += 1
            entry.left_out = True
            return entry, False
        self._lines[subject_key] += 1
        self._lines_in_all += 1
        return entry, True

    def _forget(self, subject: str) -> None:
        """Forget a decision of *subject* if it has more than its share, else of another such subject, else of the one
        without a decision for the longest time: the oldest one, but no grant if one of the oldest ones is none.
        """
        if subject not in self._large:
            subject = next(iter(self._large), next(iter(self._remembered)))
        several = self._remembered[subject]
        oldest = islice(several.items(), SUBJECT_SHARE)
        refused = (topic for topic, its in oldest if its.outcome != GRANTED and its.grant is None)
        entry = several.pop(next(refused, next(iter(several))))
        self._number -= 1
        if len(several) <= SUBJECT_SHARE:
            self._large.pop(subject, None)
        if not several:
            del self._remembered[subject]
        for decision in (entry, entry.grant):
            if decision is not None:
                # Other pods may share the counter of a grant.
                self._count(subject, decision, decision.usage if decision.outcome == GRANTED else None)

    def _replace(
        self, subject: str, entry: _LastOutcome | None, outcome: str, usage: Usage | None
    ) -> _LastOutcome | None:
        """Count the repeats of *entry*, which *outcome* and *usage* replace, and return the grant to keep with them."""
        if entry is None:
            return None
        grant = entry if entry.outcome == GRANTED else entry.grant
        ended = [entry] if entry is not grant else []
        if grant is not None and outcome == GRANTED:
            ended.append(grant)
            grant = None
        for decision in ended:
            self._count(subject, decision, usage)
        return grant

    def _count(self, subject: str, ended: _LastOutcome, usage: Usage | None) -> None:
        """Keep the repeats of *ended* for the summary. The next entry counts those of *usage*, which other pods may
        share.
        """
        uses = ended.usage.take() if ended.usage is not None and ended.usage is not usage else 0
        if ended.left_out:
            self._left_out += uses
        else:
            self._replaced[subject, ended.identity, ended.outcome] += ended.repeats + uses


def _outcome(outcome: str) -> dict[str, str | None]:
    if outcome in {GRANTED, EXEMPT}:
        return {"outcome": outcome, "reason": None}
    first, _, reason = outcome.partition(" ")
    return {"outcome": first, "reason": reason} if reason else {"outcome": REFUSED, "reason": outcome}


def shown(text: str) -> str:
    """Return untrusted *text* cut for the log, which quotes every field."""
    return text[:SHOWN_CHARS]


def _named(subjects: Collection[str]) -> str:
    """Return one name for the pods that share a cached token and its count."""
    first, *others = subjects
    return f"{first} and {len(others)} more" if others else first


def _topic(request: TokenRequest) -> tuple[str, ...]:
    return (
        request.resource[:SHOWN_CHARS],
        _SELECTOR_NAMES[request.selector],
        request.selector_value[:SHOWN_CHARS].lower(),
        request.xms_cc[:SHOWN_CHARS],  # another token, with its own counter
    )
