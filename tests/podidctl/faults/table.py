"""The fault table of docs/troubleshooting.md: its rows, and the measurement of one row in a sandbox."""

import asyncio
import json
import os
import re
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from podidentity_sandbox.sandbox import Sandbox
from tests.integration.identity_requests import ask
from tests.podidctl.faults.catalogue import FAULTS, POD, Fault, Shown

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = ROOT / "docs" / "troubleshooting.md"
HEAD: Final = "| fault | pod's response | `explain pod`: broken link and next action | `doctor` | exit codes |"
UNTIL_SECONDS: Final = 20.0
"""Time for MIC's message, or NMI's Event, to arrive."""
WRITE: Final = "FAULT_TABLE"
"""Environment variable: with the value `write`, the test replaces the rows in the page."""

_VARIABLE: Final = (
    (re.compile(r"at \d\d:\d\d:\d\d UTC"), "at …"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE), "…"),
    (re.compile(r"/subscriptions/[^\s,:;)'\"]*[^\s,:;)'\".]", re.IGNORECASE), "…"),
    (re.compile(r"/tmp/\S+/cloud\.json"), "…"),
    (re.compile(r"https?://127\.0\.0\.1(:\d+)?"), "…"),
    (re.compile(r"\b[0-9a-f]{4}…[0-9a-f]{4}\b"), "…"),
    (re.compile(r"held for [\d.]+ s"), "held"),
    (re.compile(r"for (\d+|less than \d+) s\b"), "for … s"),
    (re.compile(r"at \d{4}-\d\d-\d\dT[\d:]+Z"), "at …"),
    (re.compile(r"issuer \S+,"), "issuer …,"),
)


@dataclass(frozen=True)
class Output:
    """Exit code and document of one command, its duration, and its CPU time."""

    code: int
    document: Any
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Row:
    """One measured row."""

    fault: Fault
    response: str
    explain: Output
    doctor: Output

    @property
    def broken(self) -> Any:
        return next((each for each in self.explain.document["links"] if each["state"] == "broken"), None)

    @property
    def findings(self) -> list[Any]:
        return [each for each in self.doctor.document["findings"] if each["level"] in {"problem", "warning"}]

    @property
    def is_right(self) -> bool:
        """Whether both commands name the fault."""
        checks = sorted(each["check"] for each in self.findings)
        link = self.broken["link"] if self.broken is not None else ""
        return link == self.fault.link and checks == sorted(self.fault.checks)

    @property
    def text(self) -> str:
        explain = f"`{self.broken['link']}`: {steady(self.broken['next'])}" if self.broken is not None else "—"
        doctor = "; ".join(map(self._finding, self.findings)) or "no finding"
        codes = f"{self.explain.code}, {self.doctor.code}"
        cells = (self.fault.text, steady(self.response), explain, doctor, codes)
        return f"| {' | '.join(each.replace('|', ',') for each in cells)} |"

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


async def measure(sandbox: Sandbox, fault: Fault) -> Row:
    """Return the row of the injected *fault*, as soon as both commands name it or UNTIL_SECONDS have passed."""
    shown = await fault.inject(sandbox)
    response = await _response(sandbox, shown)
    deadline = time.monotonic() + UNTIL_SECONDS
    while True:
        row = Row(fault, response, await podidctl(sandbox, "explain", "pod", f"default/{POD}"), await _doctor(sandbox))
        if row.is_right or time.monotonic() > deadline:
            return row


async def _doctor(sandbox: Sandbox) -> Output:
    return await podidctl(sandbox, "doctor")


async def podidctl(sandbox: Sandbox, *words: str) -> Output:
    """Run the command as a user of the sandbox, with JSON output."""
    began, used = time.monotonic(), _cpu_seconds_of_children()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "podidctl", *words, "-o", "json"),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **sandbox.shell_environment()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out, err.decode()
    assert process.returncode is not None
    seconds, cpu_seconds = time.monotonic() - began, _cpu_seconds_of_children() - used
    return Output(process.returncode, json.loads(out), seconds, cpu_seconds)


def _cpu_seconds_of_children() -> float:
    """Return the CPU time of the ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def _response(sandbox: Sandbox, shown: Shown) -> str:
    if shown.context is None:
        return "—"
    try:
        answer = await ask(sandbox, shown.context, headers=shown.headers, **shown.query)
    except AssertionError:
        return "no connection"
    says = answer.body.get("error_description", "a token")
    return f"{answer.status} {says}"


def rows() -> dict[str, str]:
    """Return the rows of the page by their first cell."""
    lines = PAGE.read_text().split(f"{HEAD}\n", 1)[1].splitlines()
    found = {}
    for line in lines[1:]:
        if not line.startswith("|"):
            break
        found[line.split(" | ")[0].removeprefix("| ")] = line
    return found


def write(row: Row) -> None:
    """Replace or append the row in the page."""
    before, after = PAGE.read_text().split(f"{HEAD}\n", 1)
    there = rows()
    divider, *rest = after.splitlines()
    others = rest[len(there) :]
    there[row.fault.text] = row.text
    order = [each.text for each in FAULTS]
    there = {text: there[text] for text in order if text in there}
    PAGE.write_text("\n".join((before + HEAD, divider, *there.values(), *others)) + "\n")
