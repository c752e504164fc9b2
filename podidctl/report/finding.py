"""Findings of the checks, from which the links of `explain` and the results of `doctor` are made. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from podidentity.report import SOMETHING_TO_DO


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """Something works differently than expected, or will fail."""
    PROBLEM = "problem"
    """Pods do not get what they need, or get access that they must not have."""
    UNKNOWN = "unknown"
    """The state could not be read."""


COLORS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red", Level.UNKNOWN: "magenta"}
"""Colors of the levels in tables."""


def exit_code(levels: Iterable[Level], fail_on: Level = Level.WARNING) -> int:
    """Return the exit code of a command that has reported results of these *levels*. *fail_on*: PROBLEM to accept
    warnings.
    """
    reported = set(levels)
    return SOMETHING_TO_DO if reported & {Level.PROBLEM, fail_on} else int(Level.UNKNOWN in reported)


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. The texts are untrusted, except for the manifest."""

    check: str
    """Name of the check, from a closed set; in an explanation, of the link."""
    level: Level
    message: str
    next: str = ""
    """The next action; never empty for a problem or a warning."""
    about: str = ""
    """The object's namespace and name, or another identification. Only explanations have it."""
    manifest: str = ""
    """YAML for `kubectl apply -f -` that corrects it; empty if no object does."""
    cause: str = ""
    """What may have caused it: a check, or why the API server refuses a read. The first finding that `explains` it is
    the cause."""
    explains: tuple[str, ...] = ()
    """Causes of other findings that this finding is."""
    effects: "tuple[Finding, ...]" = ()
    """The findings that it explains."""


def ok(check: str, message: str, then: str = "", *, about: str = "") -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(check, Level.OK, message, then, about)


def warning(check: str, message: str, then: str, *, cause: str = "", explains: tuple[str, ...] = ()) -> Finding:
    """Return the finding of a fault that a pod does not notice, or not yet."""
    return Finding(check, Level.WARNING, message, then, cause=cause, explains=explains)


def problem(
    check: str,
    message: str,
    then: str,
    *,
    about: str = "",
    manifest: str = "",
    cause: str = "",
    explains: tuple[str, ...] = (),
) -> Finding:
    """Return the finding of a fault."""
    return Finding(check, Level.PROBLEM, message, then, about, manifest, cause, explains)


def unknown(check: str, message: str, then: str = "", *, about: str = "", cause: str = "") -> Finding:
    """Return the finding about a state that could not be read. *cause*: the reason, if other reads may have it too."""
    return Finding(check, Level.UNKNOWN, message, then, about, cause=cause, explains=(cause,) if cause else ())


def by_cause(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings in their order, each that another one explains only as the effect of that one. Of findings
    that explain each other, the first one is the cause.
    """
    several = list(findings)
    causes: dict[str, int] = {}
    for number, finding in enumerate(several):
        for cause in finding.explains:
            causes.setdefault(cause, number)
    effects: dict[int, list[Finding]] = {number: [] for number in range(len(several))}
    for number, finding in enumerate(several):
        path = [number]
        # A finding may be the effect of an effect, and findings may explain each other in a circle.
        while (higher := causes.get(several[path[-1]].cause, path[-1])) not in path:
            path.append(higher)
        root = min(path[path.index(higher) :])
        if root != number:
            effects.pop(number, None)
            effects[root].append(finding)
    return [replace(several[number], effects=tuple(its)) for number, its in effects.items()]
