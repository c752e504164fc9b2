"""Findings of the checks, from which the links of `explain` and the results of `doctor` are made. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
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


def ok(check: str, message: str, then: str = "", *, about: str = "") -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(check, Level.OK, message, then, about)


def warning(check: str, message: str, then: str) -> Finding:
    """Return the finding of a fault that a pod does not notice, or not yet."""
    return Finding(check, Level.WARNING, message, then)


def problem(check: str, message: str, then: str, *, about: str = "", manifest: str = "") -> Finding:
    """Return the finding of a fault."""
    return Finding(check, Level.PROBLEM, message, then, about, manifest)


def unknown(check: str, message: str, then: str = "", *, about: str = "") -> Finding:
    """Return the finding about a state that could not be read."""
    return Finding(check, Level.UNKNOWN, message, then, about)
