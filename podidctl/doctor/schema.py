"""Schema of the findings, which is also the document of the machine-readable output. Pure."""

from enum import StrEnum
from typing import Final

from podidctl.report_parts import Statement
from podidentity.report import ReportModel, plain


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


class Finding(Statement, frozen=True):
    """Result of one check, as one line."""

    check: str
    """Name of the check, from a closed set."""
    level: Level
    manifest: str = ""
    """YAML for `kubectl apply -f -` that corrects it; empty if no object does."""


class Report(ReportModel, frozen=True):
    """All findings, in the order of the checks."""

    findings: list[Finding]

    @property
    def anything(self) -> bool:
        """Whether there is a problem or a warning."""
        return any(each.level in {Level.PROBLEM, Level.WARNING} for each in self.findings)

    @property
    def unknown(self) -> bool:
        """Whether something could not be read."""
        return any(each.level is Level.UNKNOWN for each in self.findings)


def make_finding(check: str, level: Level, says: str, then: str = "", *, manifest: str = "") -> Finding:
    """Return a finding. The texts are untrusted, except for *manifest*."""
    return Finding(check=check, level=level, says=plain(says), next=plain(then), manifest=manifest)
