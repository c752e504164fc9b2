"""The table of findings, of which there may be any number."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Console

from podidctl.report.documents import CheckResult, Report
from podidctl.report.finding import COLORS, Level
from podidctl.report.text import Part, grouped, print_blocks, print_line, print_text
from podidentity.report import counted

FINDINGS_MAX: Final = 20
"""Findings of one check in the table."""
MANIFEST_LINES_MAX: Final = 300
"""Lines of all manifests below the table: those of about 20 service accounts."""
ORDER: Final = (Level.PROBLEM, Level.WARNING, Level.UNKNOWN, Level.OK)


def show(report: Report, to: Console) -> None:
    """Print a row per finding with what follows from it, and below it the next action, once for all with the same.

    At most FINDINGS_MAX of one check are printed, problems first: anyone with permission to create AzureIdentities in a
    namespace can cause any number.
    """
    findings, omitted = shortened(report.findings)
    by_action = grouped(
        # A number is in no other group, so a finding without an action stays alone.
        (finding.next if finding.level is not Level.OK and finding.next else index, finding)
        for index, finding in enumerate(findings)
    )
    blocks = (
        ([row for finding in several for row in _rows(finding)], action if isinstance(action, str) else "")
        for action, several in by_action.items()
    )
    print_blocks(blocks, to)
    for check, count in omitted.items():
        print_line(to, (check, "bold"), f": {count} more; -o json has all of them")
    _show_manifests([finding.manifest for finding in findings if finding.manifest], to)


def _rows(finding: CheckResult) -> Iterator[tuple[Part, Part, Part]]:
    """Yield the row of the finding without its next action, and one for each thing that follows, each text once."""
    # The action is printed below the row, once for all rows that have it.
    says = finding.says.removesuffix(f": {finding.next}") if finding.level is not Level.OK else finding.says
    yield (finding.level, COLORS[finding.level]), finding.check, says
    effects = grouped(((effect.says, effect.next), effect.check) for effect in finding.affects)
    lines = [
        f"therefore {', '.join(dict.fromkeys(checks))}: {says}{f'; if that remains: {then}' if then else ''}"
        for (says, then), checks in effects.items()
    ]
    more = [f"{len(lines) - FINDINGS_MAX} more; -o json has all of them"] if len(lines) > FINDINGS_MAX else []
    yield from (("", "", line) for line in (*lines[:FINDINGS_MAX], *more))


def _show_manifests(manifests: Sequence[str], to: Console) -> None:
    """Print whole manifests, up to MANIFEST_LINES_MAX lines, and how to get the others."""
    lines = omitted = 0
    for manifest in manifests:
        if lines + manifest.count("\n") > MANIFEST_LINES_MAX:
            # No break: a later manifest may be short enough.
            omitted += 1
            continue
        lines += manifest.count("\n")
        print_text(manifest, to)
    if omitted:
        more = f"{counted(omitted, 'more manifest')}: podidctl doctor -o json | jq -r '.findings[].manifest'"
        print_line(to, more)


def shortened(findings: Sequence[CheckResult]) -> tuple[list[CheckResult], dict[str, int]]:
    """Return the findings to print in their order, and the number of the others by check."""
    # A stable sort, and below the numbers again: the printed findings stay in the order of the checks.
    worst_first = sorted(range(len(findings)), key=lambda index: ORDER.index(findings[index].level))
    shown = grouped((findings[index].check, index) for index in worst_first)
    numbers = sorted(number for several in shown.values() for number in several[:FINDINGS_MAX])
    omitted = {check: len(several) - FINDINGS_MAX for check, several in shown.items() if len(several) > FINDINGS_MAX}
    return [findings[index] for index in numbers], omitted
