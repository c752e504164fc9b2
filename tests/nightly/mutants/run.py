"""`python -m tests.nightly.mutants.run [--fast] [--workers N] [WORD …]` applies each mutant in a copy and runs its
tests.

A mutant is *killed* if each of its tests fails. It *survives* if one passes: then that test does not prove the
row of docs/security.md. First the same tests must pass in the same copy without the change. WORD selects
mutants by topic, or by a part of their file's or tests' names. Exits with 1 if a mutant survives or cannot be judged.
"""

import argparse
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.nightly.mutants.entries import Mutant, MutantError, all_mutants, fault
from tests.nightly.mutants.trees import Run, Tree
from tests.repository.docs.threat_tables import rows
from tests.support.checkout import ROOT

COPIES: Final = ROOT / "build" / "mutants"
SECONDS: Final = 240
"""The limit for the tests of one mutant, with or without the change."""
SLOW_SECONDS: Final = 900
PROOF_SECONDS: Final = 1800
"""The limit for all tests together without a change."""
NO_PROOF: Final = {"ImportError", "SyntaxError", "NameError", "Skipped"}
"""Exceptions that mean that the change itself is broken, or that nothing was tested."""


class Verdict(StrEnum):
    """The verdict on one mutant."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    UNJUDGED = "UNJUDGED"


@dataclass(frozen=True)
class Result:
    """The verdict with its reason."""

    mutant: Mutant
    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0
    output: str = ""


def judged(mutant: Mutant, run: Run) -> tuple[Verdict, str]:
    """Return the verdict on *mutant* by *run*, the outcomes of its tests with the change."""
    if not run.in_time:
        return Verdict.UNJUDGED, "its tests took too long; find one that fails sooner"
    if broken := [each.test for each in run.outcomes if each.when == "collect"]:
        return Verdict.UNJUDGED, f"cannot collect {', '.join(broken)}: the change breaks more than its promise"
    passed = []
    for test in mutant.tests:
        failed = [each for each in run.outcomes if each.test == test and each.outcome == "failed"]
        if invalid := sorted({error for each in failed for error in each.errors} & NO_PROOF):
            return Verdict.UNJUDGED, f"{test} fails by {', '.join(invalid)}, which proves nothing"
        if any(each.when != "setup" for each in failed):
            continue
        if failed or not any(each.test == test for each in run.outcomes):
            return Verdict.UNJUDGED, f"{test} did not begin"
        passed.append(test)
    return (Verdict.SURVIVED, f"still passes: {', '.join(passed)}") if passed else (Verdict.KILLED, "")


def sound(tests: Iterable[str], run: Run) -> str | None:
    """Return why *run*, without a change, proves nothing about *tests*; None if each passed."""
    if not run.in_time:
        return "took too long without the change"
    for test in tests:
        mine = [each for each in run.outcomes if each.test == test]
        if not any(each.when == "call" for each in mine) or any(each.outcome != "passed" for each in mine):
            return f"{test} does not pass without the change"
    return None


class Worker:
    """Runs mutants one after the other in a separate copy. `proven` has the tests that pass without a change."""

    def __init__(self, tree: Tree, proven: set[str]) -> None:
        self._tree = tree
        self._proven = proven

    def prove(self, tests: Sequence[str]) -> None:
        """Run *tests* together without a change, and record those that pass. Others are run again later."""
        run = self._tree.run(tests, PROOF_SECONDS) if tests else None
        self._proven.update(test for test in tests if run is not None and sound([test], run) is None)

    def result(self, mutant: Mutant) -> Result:
        """Apply one mutant and return its result."""
        began = time.monotonic()
        verdict, reason, output = self._judged(mutant)
        return Result(mutant, verdict, reason, time.monotonic() - began, output)

    def _judged(self, mutant: Mutant) -> tuple[Verdict, str, str]:
        limit = SLOW_SECONDS if mutant.slow else SECONDS
        if unproven := [test for test in mutant.tests if test not in self._proven]:
            run = self._tree.run(unproven, limit)
            if reason := sound(unproven, run):
                return Verdict.UNJUDGED, reason, run.output
            self._proven.update(unproven)
        try:
            with self._tree.mutated(mutant):
                run = self._tree.run(mutant.tests, limit)
        except MutantError as error:
            return Verdict.UNJUDGED, str(error), ""
        return (*judged(mutant, run), run.output)


def selected(mutants: Iterable[Mutant], words: Sequence[str], *, fast: bool) -> list[Mutant]:
    """Return the mutants that a word names (all mutants without words), without slow ones if *fast*."""

    def named(mutant: Mutant) -> bool:
        texts = (mutant.file, *mutant.tests)
        return any(word in {mutant.topic, mutant.name} or any(word in text for text in texts) for word in words)

    return [each for each in mutants if (not words or named(each)) and not (fast and each.slow)]


def run_all(mutants: Sequence[Mutant], workers: int) -> list[Result]:
    """Run all of them, slow ones last and alone, and print a line for each."""
    trees = [Tree(COPIES / str(number)) for number in range(min(workers, len(mutants)))]
    proven: set[str] = set()
    results: list[Result] = []
    lock = threading.Lock()

    def work(tree: Tree, tests: Sequence[str], waiting: queue.SimpleQueue[Mutant]) -> None:
        worker = Worker(tree, proven)
        worker.prove(tests)
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            result = worker.result(mutant)
            with lock:
                results.append(result)
                _report(result, len(results), len(mutants))

    for tree in trees:
        tree.make()
    for slow, each_trees in ((False, trees), (True, trees[:1])):
        chosen = [mutant for mutant in mutants if mutant.slow is slow]
        waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
        for mutant in chosen:
            waiting.put(mutant)
        tests = sorted({test for mutant in chosen for test in mutant.tests} - proven)
        threads = [
            threading.Thread(target=work, args=(tree, tests[number :: len(each_trees)], waiting), daemon=True)
            for number, tree in enumerate(each_trees)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def _report(result: Result, number: int, of: int) -> None:
    mutant = result.mutant
    head = f"[{number}/{of}] {result.verdict} {result.seconds:.1f} s {mutant.name} {mutant.file}: {mutant.breaks}"
    sys.stdout.write(f"{head}\n" if result.verdict is Verdict.KILLED else f"{head}\n    {result.reason}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="exclude slow mutants")
    parser.add_argument("--workers", type=int, default=2, help="concurrent copies")
    parser.add_argument("--verbose", action="store_true", help="print pytest's output for mutants that are not killed")
    parser.add_argument("words", nargs="*", metavar="WORD", help="a topic, or a part of a file's or test's name")
    asked = parser.parse_args()
    try:
        mutants = selected(all_mutants(), asked.words, fast=asked.fast)
    except MutantError as error:
        parser.error(str(error))
    table = rows()
    if faults := [f"{each.name}: {wrong}" for each in mutants if (wrong := fault(each, table))]:
        parser.error("\n".join(faults))
    if not mutants:
        parser.error("no mutant is selected; name a topic, a file or a test")
    began = time.monotonic()
    results = run_all(mutants, asked.workers)
    if asked.verbose:
        for result in results:
            if result.verdict is not Verdict.KILLED:
                sys.stdout.write(f"\n== {result.mutant.name}\n{result.output}\n")
    counts = Counter(result.verdict for result in results)
    sys.stdout.write(
        f"{counts[Verdict.KILLED]} of {len(mutants)} mutants killed, {counts[Verdict.SURVIVED]} survived, "
        f"{counts[Verdict.UNJUDGED]} not judged, in {time.monotonic() - began:.0f} s\n"
    )
    return 0 if counts[Verdict.KILLED] == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
