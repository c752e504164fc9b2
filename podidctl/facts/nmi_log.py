"""Parser of NMI's log for recent decisions about a pod: the last grants and refusals. Pure.

NMI logs a line when the result changes and counts repeats about once a minute (`nmi.server.decisions`). The parser
reads only the fields of that logger's lines. Other text is in quotes there, so no text that a pod sent can pass for a
field.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from nmi.server.decision_lines import LOGGER, REFUSED, UNANSWERED
from podidctl.facts.model import PodKey
from podidctl.report.documents import LoggedDecision
from podidentity.resources import Pod

DECISIONS_MAX: Final = 16
"""Decisions about one pod: NMI writes at most 20 lines a minute about it."""
_HEAD: Final = re.compile(rf"[A-Z](?P<at>\d{{4}} \d\d:\d\d:\d\d)\.\d+ {re.escape(LOGGER)}\] ")
_FIELD: Final = re.compile(r' (?P<name>[a-z_]+)=(?P<value>"(?:\\.|[^"\\])*"|[^\s"]+)')


def parse_decisions(log: str) -> dict[PodKey, tuple[LoggedDecision, ...]]:
    """Return the latest decisions about each pod in the log, latest first.

    A summary of repeats has no uid: it counts for the incarnation of the last decision before it. If that one is not in
    the log any more, it counts for the next incarnation in the log, or else for any: its uid here is empty.
    """
    logged_by_pod: dict[PodKey, dict[tuple[str, ...], LoggedDecision]] = {}
    uids: dict[str, str] = {}
    for at, fields in _lines(log):
        pod = str(fields.get("pod", ""))
        if "uid" not in fields:
            _repeat(logged_by_pod.setdefault((pod, uids.get(pod, "")), {}), at, fields)
            continue
        key = pod, str(fields["uid"])
        if key not in logged_by_pod:
            logged_by_pod[key] = logged_by_pod.pop((pod, ""), {})
        uids[pod] = key[1]
        _add(logged_by_pod[key], at, fields)
    return {key: _latest(logged) for key, logged in logged_by_pod.items()}


def decisions_of(pod: Pod, logged: Mapping[PodKey, tuple[LoggedDecision, ...]]) -> tuple[LoggedDecision, ...]:
    """Return those about this incarnation of *pod*."""
    name = "/".join(pod.key)
    return logged.get((name, pod.metadata.uid)) or logged.get((name, ""), ())


def logged_peers(log: str, client_request: str) -> tuple[str, ...]:
    """Return the peer addresses of the decisions about requests with the client's request id *client_request*."""
    return tuple(
        str(fields.get("peer", "")) for _, fields in _lines(log) if fields.get("client_request") == client_request
    )


def _add(logged: dict[tuple[str, ...], LoggedDecision], at: str, fields: dict[str, Any]) -> None:
    decision = msgspec.structs.replace(_decision(at, fields), decided_at=at)
    key = (decision.outcome, decision.identity, decision.resource, decision.error, str(decision.unanswered))
    # A dict keeps the place of a replaced key, and the order here is that of the latest line.
    logged.pop(key, None)
    logged[key] = decision


def _latest(logged: dict[tuple[str, ...], LoggedDecision]) -> tuple[LoggedDecision, ...]:
    return tuple(reversed(list(logged.values())[-DECISIONS_MAX:]))


def _decision(at: str, fields: dict[str, Any]) -> LoggedDecision:
    refused = fields.get("outcome") in {REFUSED, UNANSWERED}
    return LoggedDecision(
        at=at,
        outcome=str(fields.get("reason") or REFUSED) if refused else str(fields.get("outcome", "")),
        identity=str(fields.get("identity", "")),
        resource=str(fields.get("resource", "")),
        status=fields.get("status") if isinstance(fields.get("status"), int) else None,
        error=str(fields.get("error", "")),
        unanswered=fields.get("outcome") == UNANSWERED,
    )


def _repeat(logged: dict[tuple[str, ...], LoggedDecision], at: str, fields: dict[str, Any]) -> None:
    """Add the count of a summary to the latest decision that it can refer to."""
    summary = _decision(at, fields)
    count = fields.get("count")
    for key, decision in reversed(logged.items()):
        its = (decision.outcome, decision.identity, decision.unanswered)
        if its == (summary.outcome, summary.identity, summary.unanswered) and isinstance(count, int):
            logged[key] = msgspec.structs.replace(logged.pop(key), at=at, repeats=decision.repeats + count)
            return
    if isinstance(count, int):
        logged[summary.outcome, summary.identity, "", ""] = msgspec.structs.replace(summary, repeats=count)


def _lines(log: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in log.splitlines():
        if line.startswith("{"):
            yield from _json_line(line)
        elif (head := _HEAD.match(line)) is not None:
            moment = head["at"]
            fields = {field["name"]: _value(field["value"]) for field in _FIELD.finditer(line, head.end())}
            yield f"{moment[:2]}-{moment[2:4]}{moment[4:]}", fields


def _json_line(line: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):  # cut off, or a line of another program
        return
    if isinstance(fields, dict) and fields.get("logger") == LOGGER:
        # Without the year and the zone, as the lines in klog's format.
        moment = str(fields.get("time", ""))
        yield f"{moment[5:10]} {moment[11:19]}", fields


def _value(text: str) -> Any:
    # Only quoted texts and numbers are JSON here; the rest is text, as in the log.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
