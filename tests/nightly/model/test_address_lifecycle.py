"""In no history of the model a response goes to another pod than the one that owns the address.

docs/address-lifecycle.md describes the model, which spin searches exhaustively. Each mechanism and each assumption is
shown to be necessary: without it spin finds a history with a wrong answer. Run by `make model`, nightly with
MODEL=full; not part of `make test`. Excluded: how long anything takes (tests/nightly/soak).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.checkout import ROOT

FULL: Final = os.environ.get("MODEL", "quick") == "full"
MODEL: Final = Path(__file__).with_name("address_lifecycle.pml")
DEPTH_MAX: Final = 1_000_000
"""Steps of one history. A search that reaches it is not complete, which its report shows."""
MEMORY_MIB: Final = 6000
SECONDS_MAX: Final = 1500
_COMPILER_FLAGS: Final = ("-O1", "-w", "-DSAFETY", "-DNOREDUCE", "-DNOFAIR", f"-DMEMLIM={MEMORY_MIB}")
"""Without partial order reduction: every step reads the writes of the others, so there is nothing to reduce."""
SMALL: Final = ("SANDBOXES=2", "EVENTS=0", "FLAPS=0", "OVERRUNS=0")
"""Two pods, the address is given away twice, the watch's queue holds one list, netlink loses and invents nothing."""
FALSE_REPORTS: Final = ("SANDBOXES=2", "EVENTS=0", "FLAPS=1", "OVERRUNS=0")
OVERRUN: Final = ("SANDBOXES=2", "EVENTS=0", "FLAPS=0", "OVERRUNS=1")
THREE: Final = ("SANDBOXES=3", "EVENTS=0", "FLAPS=0", "OVERRUNS=0")
HOLDS: Final = {
    "local evidence": SMALL,
    "nothing shown, the next owner's status comes first": (*SMALL, "SHOWS_NOTHING", "CLAIMED_FIRST"),
    "nothing shown, the former owner's end is written first": (*SMALL, "SHOWS_NOTHING", "WRITTEN_FIRST"),
}
HOLDS_IN_FULL: Final = {
    "a false report": FALSE_REPORTS,
    "an overrun": OVERRUN,
    "an event behind the list, a false report and an overrun": ("SANDBOXES=2", "EVENTS=1", "FLAPS=1", "OVERRUNS=1"),
    "two requests": (*SMALL, "REQUESTS=2"),
    "the address is given away three times": THREE,
}
BROKEN: Final = {
    # Mechanisms of NMI.
    "a pod that has ended is served after a read": (*SMALL, "NO_POD_STATE"),
    "that, where the CNI shows nothing": (*SMALL, "SHOWS_NOTHING", "WRITTEN_FIRST", "NO_POD_STATE"),
    "a pod that is being deleted is served without a read": (*SMALL, "SHOWS_NOTHING", "WRITTEN_FIRST", "NO_DOUBT"),
    "no evidence": (*SMALL, "NO_EVIDENCE"),
    "lost netlink messages are ignored": (*OVERRUN, "OVERRUN_IGNORED"),
    "the generation is not compared after an await": (*SMALL, "NO_GENERATION"),
    "ready responses survive a suspension": (*SMALL, "READY_RESPONSES_UNCHECKED"),
    "a read is shared across generations": (*SMALL, "READ_SHARED"),
    "any event lifts a suspension": (*SMALL, "LIFTED_BY_ANY_EVENT"),
    "the first of two claims wins": (*SMALL, "SHOWS_NOTHING", "CLAIMED_FIRST", "FIRST_CLAIM_WINS"),
    "of two claims the one that is not ending wins": (
        *SMALL,
        "SHOWS_NOTHING",
        "CLAIMED_FIRST",
        "SETTLED_BY_ELIMINATION",
    ),
    "a read about the address is used though NMI has learnt something since": (
        *SMALL,
        "SHOWS_NOTHING",
        "CLAIMED_FIRST",
        "LOOKUP_UNCHECKED",
    ),
    "evidence about an address that no pod claims yet is forgotten": (*SMALL, "UNCLAIMED_EVIDENCE_FORGOTTEN"),
    # Assumptions.
    "a request overtakes the netlink message": (*SMALL, "NETLINK_UNORDERED"),
    "the kubelet writes later than the deciding read": (*SMALL, "KUBELET_LATE"),
    "NMI starts after the address was given away": (*SMALL, "STARTED_LATE"),
    "NMI had no report about the address": (*OVERRUN, "NEVER_SEEN"),
    "the CNI shows nothing, and nothing else is assumed": (*SMALL, "SHOWS_NOTHING"),
    "a read is used after the former owner's end was written": (
        *SMALL,
        "SHOWS_NOTHING",
        "WRITTEN_FIRST",
        "READS_LAST_LONGER",
    ),
}
"""Each fault with the macros that cause it."""
SERVED: Final = (*SMALL, "SECOND_OWNER_IS_SERVED")
"""Here the assertion fails as soon as the second owner of the address gets its own token."""
ALL: Final = {**HOLDS, **(HOLDS_IN_FULL if FULL else {}), **BROKEN, "served": SERVED}
pytestmark = pytest.mark.timeout(2 * SECONDS_MAX)


@dataclass(frozen=True, slots=True)
class Search:
    """The report of one search, which `pan` printed."""

    report: str

    def number(self, pattern: str) -> int:
        """Return the number that *pattern* has in its group."""
        match = re.search(pattern, self.report, re.MULTILINE)
        assert match is not None, self.report
        return int(float(match[1]))

    @property
    def errors(self) -> int:
        return self.number(r"errors: (\d+)")

    @property
    def states(self) -> int:
        return self.number(r"^\s*([0-9.e+]+) states, stored")


LIMITED: Final = ("not completed", "depth too small", "out of memory", "memory limit")
"""Reports that not every reachable state was visited. A search ends at the first error, too."""


def search(defines: tuple[str, ...], directory: Path) -> Search:
    """Search the model with these macros (`NAME` or `NAME=VALUE`). Raises CalledProcessError and TimeoutExpired."""
    spin = shutil.which("spin", path=f"{os.environ['PATH']}:{ROOT}/build/model/usr/bin")
    assert spin is not None, "spin is not installed; run make setup"
    shutil.copy(MODEL, directory / "model.pml")
    _run([spin, "-a", *(f"-D{macro}" for macro in defines), "model.pml"], directory)
    _run(["cc", *_COMPILER_FLAGS, "-o", "pan", "pan.c"], directory)
    # pan ends with an error code only if it could not search; spin prints syntax errors and continues.
    return Search(_run(["./pan", f"-m{DEPTH_MAX}"], directory))


def _run(command: list[str], directory: Path) -> str:
    return subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, text=True, timeout=SECONDS_MAX, check=True
    ).stdout


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Future[Search]"]]:
    """Run every search, two of them concurrently."""
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(search, defines, tmp_path_factory.mktemp("spin")) for name, defines in ALL.items()}
        pool.shutdown(wait=False, cancel_futures=True)


@pytest.mark.parametrize("name", [*HOLDS, *(HOLDS_IN_FULL if FULL else {})])
def test_no_history_results_in_a_wrong_answer(searches: dict[str, "Future[Search]"], name: str) -> None:
    result = searches[name].result()
    print(f"{name}: {result.states:,} states")  # noqa: T201  shown by -rP
    assert result.errors == 0, result.report
    assert not any(text in result.report for text in LIMITED), result.report
    assert result.states > 10_000
    unreached = re.findall(r"^\s+model\.pml:\d+, state \d+, .*$", result.report, re.MULTILINE)
    # The processes run for ever.
    assert [step for step in unreached if '"-end-"' not in step] == [], "the model has steps that never happen"


@pytest.mark.parametrize("name", BROKEN)
def test_without_the_protection_a_history_results_in_a_wrong_answer(
    searches: dict[str, "Future[Search]"], name: str
) -> None:
    result = searches[name].result()
    assert result.errors == 1, f"{name}: {result.states:,} states and no wrong answer\n{result.report}"
    assert "assertion violated" in result.report


def test_the_next_owner_gets_its_own_token_in_some_history(searches: dict[str, "Future[Search]"]) -> None:
    assert searches["served"].result().errors == 1
