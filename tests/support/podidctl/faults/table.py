"""The fault table of docs/troubleshooting.md: its rows, and the measurement of one row in a place."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.support.checkout import ROOT
from tests.support.mic.preview.run_programs import CommandResult
from tests.support.podidctl.faults.catalogue import FAULTS, Fault
from tests.support.podidctl.faults.places import POD, Place

PAGE: Final = ROOT / "docs" / "troubleshooting.md"
HEAD: Final = (
    "| fault | pod's response | `explain pod` | next action | Event and log | `doctor` | exit codes | tested in |"
)
SOURCES: Final = 4
"""The cell of Events and log, which a real node may have in another order."""
UNTIL_SECONDS: Final = 20.0
"""Time for MIC's message, or NMI's Event, to arrive."""
WRITE: Final = "FAULT_TABLE"
"""Environment variable: with the value `write`, the test replaces the rows in the page."""

_VARIABLE: Final = (
    (re.compile(r"at \d\d:\d\d:\d\d UTC"), "at …"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE), "…"),
    (re.compile(r"/subscriptions/[^\s,:;)'\"]*[^\s,:;)'\".]", re.IGNORECASE), "…"),
    (re.compile(r"cloud file \(\S+\)"), "cloud file (…)"),
    (re.compile(r"https?://[\d.]+(:\d+)?"), "…"),
    (re.compile(r"\b[0-9a-f]{4}(…|\.\.\.)[0-9a-f]{4}\b"), "…"),
    (re.compile(r"logs -n \S+ \S+"), "logs -n … …"),
    (re.compile(r"NMI: \S+: not ready on node \S+: .*"), "NMI: …: not ready on node …: …"),
    (re.compile(r"NMI's service account \S+"), "NMI's service account …"),
    (re.compile(r'User "system:serviceaccount:\S+ .*'), 'User "…" …'),
    (re.compile(r"held until [\d.]+ s after the first request"), "held"),
    (re.compile(r"for (\d+|less than \d+) s\b"), "for … s"),
    (re.compile(r"bound for at most \d+ s"), "bound for at most … s"),
    (re.compile(r"at \d{4}-\d\d-\d\dT[\d:]+Z"), "at …"),
    (re.compile(r"issuer \S+,"), "issuer …,"),
    (re.compile(r"issuer=='\S+'"), "issuer=='…'"),
    (re.compile(r"default-default-[0-9a-f]{8}"), "default-default-…"),
)


@dataclass(frozen=True)
class Row:
    """One measured row."""

    fault: Fault
    response: str
    explain: CommandResult
    doctor: CommandResult

    @property
    def broken(self) -> Any:
        return next((link for link in self.explain.document["links"] if link["state"] == "broken"), None)

    @property
    def findings(self) -> list[Any]:
        return [finding for finding in self.doctor.document["findings"] if finding["level"] in {"problem", "warning"}]

    @property
    def is_right(self) -> bool:
        """Whether both commands name the fault."""
        checks = sorted(finding["check"] for finding in self.findings)
        link = self.broken["link"] if self.broken is not None else ""
        return link == self.fault.link and checks == sorted(self.fault.checks)

    @property
    def cells(self) -> list[str]:
        then = "" if self.broken is None else self.broken["next"]
        sources = "; ".join(self._sources()) or "—"
        first = steady(self.explain.document["summary"])
        doctor = "; ".join(map(self._finding, self.findings)) or "no finding"
        codes = f"{self.explain.code}, {self.doctor.code}"
        next_action = "as stated" if then and steady(then) in first else steady(then)
        response = steady(self.response)
        cells = (self.fault.text, response, first, next_action or "—", sources, doctor, codes, self.fault.tested)
        return [cell.replace("|", ",") for cell in cells]

    @property
    def text(self) -> str:
        return f"| {' | '.join(self.cells)} |"

    def _sources(self) -> Iterator[str]:
        """Yield the newest text of each source: the Events of NMI and MIC, and NMI's log. A text of the first line is
        left out.
        """
        document = self.explain.document
        newest = {event["reason"]: event["message"] for event in reversed(document["events"])}
        # Two programs write Events: which of them is the first differs.
        texts = {f"Event `{reason}`": newest[reason] for reason in sorted(newest, key=str.casefold)}
        if logged := next((decision["error"] for decision in document["decided"] if decision.get("error")), ""):
            texts["log"] = logged
        first = steady(document["summary"])
        sources = defaultdict[str, list[str]](list)
        for source, text in texts.items():
            parts = (steady(text), steady(text.partition(": ")[2]))
            shown = "as stated" if any(part and part in first for part in parts) else parts[0]
            sources[shown].append(source)
        for shown, several in sources.items():
            yield f"{', '.join(several)}: {shown}"

    def _finding(self, finding: Any) -> str:
        """Return the check with its next action, which is left out if the link states it too."""
        check, then = f"`{finding['check']}`", finding["next"]
        same = self.broken is not None and then in f"{self.broken['says']}: {self.broken['next']}"
        return check if same else f"{check}: {steady(then)}"


def steady(text: str) -> str:
    """Return the text with `…` in place of ids, addresses and times."""
    for pattern, by in _VARIABLE:
        text = pattern.sub(by, text)
    return re.sub(r"…(-…)+", "…", text)


async def measure(
    place: Place,
    fault: Fault,
    until_seconds: float = UNTIL_SECONDS,
    *,
    is_final: Callable[[Row], bool] = lambda row: row.is_right,
) -> Row:
    """Return the row of the injected *fault*, as soon as it *is_final* or *until_seconds* have passed.

    By default a row is final if both commands name the fault.
    """
    request = await fault.inject(place)
    response = await place.respond(request)
    deadline = time.monotonic() + until_seconds
    while True:
        explain = await place.podidctl("explain", "pod", f"default/{POD}")
        row = Row(fault, response, explain, await place.podidctl("doctor"))
        if is_final(row) or time.monotonic() > deadline:
            return row
        # On a busy machine MIC may need longer than the hold of the first request. A workload sends it again, too.
        response = await place.respond(request)


def equals_the_page(row: Row) -> bool:
    """Return whether both commands name the fault, and the page has this row.

    Another row may follow: its response was from before MIC's work, and the commands ran after it.
    """
    return row.is_right and rows().get(row.fault.text) == row.text


def assert_right(row: Row) -> None:
    """Fail unless both commands name the fault, with the exit code of a fault."""
    assert row.is_right, (row.explain.document, row.doctor.document)
    assert row.broken["next"]
    is_problem = any(finding["level"] == "problem" for finding in row.findings)
    assert (row.explain.code, row.doctor.code) == (3, 3 if is_problem else 0)


def rows() -> dict[str, str]:
    """Return the rows of the page by their first cell."""
    lines = PAGE.read_text().split(f"{HEAD}\n", 1)[1].splitlines()
    by_cell = {}
    for line in lines[1:]:
        if not line.startswith("|"):
            break
        by_cell[line.split(" | ")[0].removeprefix("| ")] = line
    return by_cell


def write(row: Row) -> None:
    """Replace or append the row in the page."""
    page, there = PAGE.read_text(), rows()
    before = page.index("\n", page.index(HEAD) + len(HEAD) + 1) + 1  # after the divider
    after = before + sum(len(line) + 1 for line in there.values())
    there[row.fault.text] = row.text
    ordered = [f"{there[fault.text]}\n" for fault in FAULTS if fault.text in there]
    PAGE.write_text(page[:before] + "".join(ordered) + page[after:])
