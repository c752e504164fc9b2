"""The log of decisions: a line when something is granted, refused or changes; repeats are summed up.

A node may answer a hundred thousand requests a second and anyone on it may send bad ones, so the number of lines
depends on neither: what was decided before is counted, each subject (a pod, else an address) has so many lines a
period, and so has the whole log. `summarize`, called once a period, tells what was left out. A refusal that has a line
is also told to whoever looks after the pod (`tell`), and again while it goes on.
"""

import logging
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from _native.answers import Usage
from nmi.identity.pods import PodEntry
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.call import Call

log = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 61.0
"""A minute, and a little more than the window in which the log holds equal lines back as repeats."""
REMEMBERED_MAX: Final = 4096
"""Decisions of 250 pods, sixteen each."""
LINES_PER_SUBJECT: Final = 20
LINES_PER_PERIOD: Final = 500
TELL_AGAIN_SECONDS: Final = 900.0
"""Kubernetes forgets Events after an hour."""
GRANTED: Final = "granted"
EXEMPT: Final = "exempt"
REFUSED: Final = "refused"
SHOWN_CHARS: Final = 128
"""Of a text that a pod chose."""
DEFECTS_MAX: Final = 64
_ORDINARY: Final = frozenset({Reason.METADATA_HEADER_MISSING, Reason.UNKNOWN_PATH})
"""SDKs probe like this each time a program starts."""


@dataclass(slots=True)
class _Remembered:
    outcome: str
    identity: str = ""
    repeats: int = 0
    usage: Usage | None = None
    left_out: bool = False
    """Without a line so far, since there were too many: it is news until it has one."""
    tell_at: float = float("-inf")
    """When it is to be told of next if it goes on. The clock's seconds."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asked: a known pod, or else nothing but an address."""

    call: Call
    entry: PodEntry | None = None
    """The pod at the peer's address."""
    pod: str = ""
    """`namespace/name`; of a pod that is asked for by a process of the node, not at its own address."""
    uid: str = ""

    @property
    def key(self) -> str:
        """Whose share of the lines is used: names that a process of the node makes up count as its own."""
        return self.call.peer if self.entry is None else self.entry.key

    @property
    def fields(self) -> dict[str, str | None]:
        """As they stand in a line."""
        pod, uid = (self.pod, self.uid) if self.entry is None else (self.entry.key, self.entry.uid)
        call = self.call
        return {
            "pod": pod,
            "uid": uid or None,
            "peer": call.peer,
            "request": call.request,
            "client_request": call.client_request or None,
        }


class Decisions:
    """Remembers what was decided lately, to tell a decision from its repeat. Bounded in every direction."""

    def __init__(
        self,
        *,
        tell: Callable[[PodEntry, Refusal], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*tell* is given refusals of known pods that have a line, and must neither block nor raise."""
        self._tell = tell
        self._clock = clock
        self._remembered: OrderedDict[tuple[str, ...], _Remembered] = OrderedDict()
        self._lines: Counter[str] = Counter()
        self._lines_in_all = 0
        self._left_out = 0
        self._defects: Counter[str] = Counter()

    def granted(
        self, subject: Subject, request: TokenRequest, identity: str, usage: Usage, correlation: str = ""
    ) -> None:
        """A token was given; *usage* goes on counting while the fast lane repeats the answer."""
        if self._is_news(subject, _topic(request), GRANTED, identity, usage):
            log.info(
                "token granted; repeats are summed up once a minute",
                extra={
                    **subject.fields,
                    "identity": identity,
                    "resource": shown(request.resource),
                    "outcome": GRANTED,
                    "correlation": correlation or None,
                },
            )

    def passed(self, subject: Subject, request: TokenRequest, status: int) -> None:
        """A token request of a pod that is exempt was answered by IMDS itself."""
        if self._is_news(subject, (*_topic(request), str(status)), EXEMPT):
            log.info(
                "token request answered by IMDS itself, since an exception covers the pod",
                extra={
                    **subject.fields,
                    "resource": shown(request.resource),
                    "status": status,
                    "outcome": EXEMPT,
                },
            )

    def refused(self, subject: Subject, path: str, status: int, refusal: Refusal, request: TokenRequest | None) -> None:
        """A request was refused; of its text only what *request* holds may be shown."""
        topic = (path,) if request is None else _topic(request)
        if self._is_news(subject, topic, refusal.reason.value):
            log.log(
                logging.INFO if refusal.reason in _ORDINARY else logging.WARNING,
                "request refused; error says what to look at",
                extra={
                    **subject.fields,
                    "identity": refusal.identity or None,
                    "path": path,
                    "status": status,
                    "outcome": REFUSED,
                    "reason": refusal.reason.value,
                    "error": refusal.detail or refusal.sentence,
                    "resource": "" if request is None else shown(request.resource),
                    "correlation": refusal.correlation or None,
                },
            )
        self._tell_of(subject, topic, refusal)

    def _tell_of(self, subject: Subject, topic: tuple[str, ...], refusal: Refusal) -> None:
        """Tell the pod's owner of what has just been remembered, if that was not done lately."""
        remembered = self._remembered[subject.key, *topic]
        if self._tell is None or subject.entry is None or refusal.reason in _ORDINARY or remembered.left_out:
            return
        now = self._clock()
        if now >= remembered.tell_at:
            remembered.tell_at = now + TELL_AGAIN_SECONDS
            self._tell(subject.entry, refusal)

    def failed(self, subject: Subject, error: BaseException) -> None:
        """A defect of ours: the traceback once for each place, then counted."""
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
            "remembered": len(self._remembered),
            "lines_this_period": self._lines_in_all,
            "left_out_this_period": self._left_out,
            "defects": dict(self._defects),
        }

    def summarize(self) -> None:
        """Tell of the repeats since the last call, per pod and identity, and begin a new period."""
        repeats: Counter[tuple[str, str, str]] = Counter()
        served: dict[int, tuple[Usage, str, dict[str, None]]] = {}
        for (subject, *_), entry in self._remembered.items():
            repeats[subject, entry.identity, entry.outcome] += entry.repeats
            entry.repeats = 0
            if entry.usage is not None:
                served.setdefault(id(entry.usage), (entry.usage, entry.identity, {}))[2][subject] = None
        for usage, identity, subjects in served.values():
            repeats[_named(subjects), identity, GRANTED] += usage.take()
        repeats = +repeats
        for (subject, identity, outcome), count in repeats.most_common(LINES_PER_PERIOD):
            log.info(
                "decisions repeated since the last summary; the first of each has a line of its own",
                extra={"pod": subject, "identity": identity, **_outcome(outcome), "count": count},
            )
        left_out = self._left_out + sum(count for _, count in repeats.most_common()[LINES_PER_PERIOD:])
        if left_out:
            log.warning("decisions left out of this log; the metric nmi_refusals counts all", extra={"count": left_out})
        self._left_out = 0
        self._lines_in_all = 0
        self._lines.clear()

    def _is_news(
        self, subject: Subject, topic: tuple[str, ...], outcome: str, identity: str = "", usage: Usage | None = None
    ) -> bool:
        """Whether to write a line now. Whatever happens, the decision is counted."""
        key = (subject.key, *topic)
        entry = self._remembered.get(key)
        if entry is not None and (entry.outcome, entry.identity) == (outcome, identity) and not entry.left_out:
            if usage is None:
                entry.repeats += 1  # what is granted again is counted by its Usage, in whichever lane
            elif entry.usage is not usage:
                entry.repeats += entry.usage.take() if entry.usage is not None else 0
                entry.usage = usage
            self._remembered.move_to_end(key)
            return False
        self._remembered[key] = _Remembered(outcome, identity, usage=usage)
        self._remembered.move_to_end(key)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        if self._lines[subject.key] >= LINES_PER_SUBJECT or self._lines_in_all >= LINES_PER_PERIOD:
            self._left_out += 1
            self._remembered[key].left_out = True
            return False
        self._lines[subject.key] += 1
        self._lines_in_all += 1
        return True


def _outcome(outcome: str) -> dict[str, str | None]:
    if outcome in {GRANTED, EXEMPT}:
        return {"outcome": outcome, "reason": None}
    return {"outcome": REFUSED, "reason": outcome}


def shown(text: str) -> str:
    """Untrusted *text* as it may be handed to the log, which quotes every field."""
    return text[:SHOWN_CHARS]


def _named(subjects: Collection[str]) -> str:
    """Pods that share one cached token share its count, too."""
    first, *others = subjects
    return f"{first} and {len(others)} more" if others else first


def _topic(request: TokenRequest) -> tuple[str, ...]:
    return (request.resource[:SHOWN_CHARS], request.selector.name, request.selector_value[:SHOWN_CHARS].lower())
