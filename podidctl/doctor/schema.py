"""Schema of the findings, which is also the document of the machine-readable output. Pure."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from podidctl.explain.schema import Shown
from podidctl.printing import plain

LISTED_MAX = 5
"""Objects that one finding names; further ones are only counted."""


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """Something works differently than expected, or will fail."""
    PROBLEM = "problem"
    """Pods do not get what they need, or get access that they must not have."""
    UNKNOWN = "unknown"
    """The state could not be read."""


class Finding(Shown, frozen=True):
    """Result of one check, as one line."""

    check: str
    """Name of the check, from a closed set."""
    level: Level
    says: str
    next: str = ""
    """The next action; never empty for a problem or a warning."""


class Report(Shown, frozen=True):
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


def make_finding(check: str, level: Level, says: str, then: str = "") -> Finding:
    """Return a finding. The texts are untrusted."""
    return Finding(check=check, level=level, says=plain(says), next=plain(then))


def listed(names: Iterable[str]) -> str:
    """Return the first names, and the number of further ones."""
    several: Sequence[str] = sorted(names)
    more = f" and {len(several) - LISTED_MAX} more" if len(several) > LISTED_MAX else ""
    return ", ".join(several[:LISTED_MAX]) + more


def counted(number: int, one: str, many: str = "") -> str:
    """Return *number* with the singular or plural form."""
    return f"{number} {one if number == 1 else many or one + 's'}"
