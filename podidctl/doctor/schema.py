"""What a check finds, as values, which are the documents of the machine-readable output, too. Pure."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from podidctl.explain.schema import Shown
from podidctl.printing import plain

LISTED_MAX = 5
"""Objects that one finding names; the rest is counted."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Something works otherwise than somebody may think, or is about to fail."""
    PROBLEM = "problem"
    """Pods do not get what they should, or get what they should not."""
    UNKNOWN = "unknown"
    """It could not be looked at."""


class Finding(Shown, frozen=True):
    """One line."""

    check: str
    """Which: a word or two of a closed set."""
    level: Level
    says: str
    next: str = ""
    """What to do; never empty for a problem or a warning."""


class Report(Shown, frozen=True):
    """All lines, in the order of the checks."""

    findings: list[Finding]

    @property
    def anything(self) -> bool:
        """Whether there is a problem or a warning."""
        return any(each.level in {Level.PROBLEM, Level.WARNING} for each in self.findings)

    @property
    def unknown(self) -> bool:
        """Whether something could not be looked at."""
        return any(each.level is Level.UNKNOWN for each in self.findings)


def make_finding(check: str, level: Level, says: str, then: str = "") -> Finding:
    """A finding out of texts that anybody may have written."""
    return Finding(check=check, level=level, says=plain(says), next=plain(then))


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    several: Sequence[str] = sorted(names)
    more = f" and {len(several) - LISTED_MAX} more" if len(several) > LISTED_MAX else ""
    return ", ".join(several[:LISTED_MAX]) + more


def counted(number: int, one: str, many: str = "") -> str:
    """*number* and the word for so many."""
    return f"{number} {one if number == 1 else many or one + 's'}"
