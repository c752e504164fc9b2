"""`python -m tests.nightly.mutants.run [--fast] [WORD …]` applies each mutant in a copy and runs its tests.

A mutant is *killed* if each of its tests fails. It *survives* if one passes: then that test does not prove the
row of docs/threats.md. First the same tests must pass in the same copy without the change. WORD selects
mutants by topic, or by a part of their file's or tests' names. Exits with 1 if a mutant survives or cannot be judged.
"""

import argparse
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from tests.nightly.mutants.entries import Mutant, MutantError, all_mutants, faults
from tests.nightly.mutants.trees import Run, Tree
from tests.repository.docs.threat_tables import rows
from tests.support.checkout import ROOT

COPIES: Final = [ROOT / "build" / "mutants" / name for name in ("0", "1")]
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


def judged(mutant: Mutant, run: Run) -> tuple[Verdict, str]:
    """Return the verdict on *mutant* by *run*, the outcomes of its tests with the change, and the reason."""
    if not run.in_time:
        return Verdict.UNJUDGED, "its tests took too long; find one that fails sooner"
    if broken := [outcome.test for outcome in run.outcomes if outcome.when == "collect"]:
        return Verdict.UNJUDGED, f"cannot collect {', '.join(broken)}: the change breaks more than its promise"
    passed = []
    for test in mutant.tests:
        failed = [outcome for outcome in run.outcomes if outcome.test == test and outcome.outcome == "failed"]
        if invalid := sorted({error for outcome in failed for error in outcome.errors} & NO_PROOF):
            return Verdict.UNJUDGED, f"{test} fails by {', '.join(invalid)}, which proves nothing"
        if any(outcome.when != "setup" for outcome in failed):
            continue
        if failed or not any(outcome.test == test for outcome in run.outcomes):
            return Verdict.UNJUDGED, f"{test} did not begin"
        passed.append(test)
    return (Verdict.SURVIVED, f"still passes: {', '.join(passed)}") if passed else (Verdict.KILLED, "")


def sound(tests: Iterable[str], run: Run) -> str | None:
    """Return why *run*, without a change, proves nothing about *tests*; None if each passed."""
    if not run.in_time:
        return "took too long without the change"
    for test in tests:
        outcomes = [outcome for outcome in run.outcomes if outcome.test == test]
        called = any(outcome.when == "call" for outcome in outcomes)
        if not called or any(outcome.outcome != "passed" for outcome in outcomes):
            return f"{test} does not pass without the change"
    return None


def result(tree: Tree, mutant: Mutant, proven: set[str]) -> tuple[Verdict, str, str]:
    """Apply one mutant in *tree*. Return the verdict with its reason, and pytest's output.

    *proven* are the tests that pass without a change; others run without it first.
    """
    limit = SLOW_SECONDS if mutant.slow else SECONDS
    if unproven := [test for test in mutant.tests if test not in proven]:
        run = tree.run(unproven, limit)
        if reason := sound(unproven, run):
            return Verdict.UNJUDGED, reason, run.output
        proven.update(unproven)
    try:
        with tree.mutated(mutant):
            run = tree.run(mutant.tests, limit)
    except MutantError as error:
        return Verdict.UNJUDGED, str(error), ""
    return *judged(mutant, run), run.output


def selected(mutants: Iterable[Mutant], words: Sequence[str], *, fast: bool) -> list[Mutant]:
    """Return the mutants that a word names (all mutants without words), without slow ones if *fast*."""

    def named(mutant: Mutant) -> bool:
        names, texts = {mutant.name, mutant.name.partition("/")[0]}, (mutant.file, *mutant.tests)
        return any(word in names or any(word in text for text in texts) for word in words)

    return [mutant for mutant in mutants if (not words or named(mutant)) and not (fast and mutant.slow)]


def run_all(mutants: Sequence[Mutant]) -> Counter[Verdict]:
    """Run all of them, slow ones last and alone, and print a line for each."""
    trees = [Tree(folder) for folder in COPIES]
    proven: set[str] = set()
    verdicts: Counter[Verdict] = Counter()
    lock = threading.Lock()

    def work(tree: Tree, tests: Sequence[str], waiting: queue.SimpleQueue[Mutant]) -> None:
        if tests:  # those that do not pass are run again, each with its mutant
            run = tree.run(tests, PROOF_SECONDS)
            proven.update(test for test in tests if sound([test], run) is None)
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            began = time.monotonic()
            verdict, reason, output = result(tree, mutant, proven)
            with lock:
                verdicts[verdict] += 1
                place, seconds = f"[{verdicts.total()}/{len(mutants)}]", time.monotonic() - began
                line = f"{place} {verdict} {seconds:.1f} s {mutant.name} {mutant.file}: {mutant.breaks}"
                print(line, flush=True)  # noqa: T201
                if verdict is not Verdict.KILLED:
                    print(f"    {reason}\n{output}", flush=True)  # noqa: T201

    for tree in trees:
        tree.make()
    for slow, workers in ((False, trees), (True, trees[:1])):
        chosen = [mutant for mutant in mutants if mutant.slow is slow]
        waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
        for mutant in chosen:
            waiting.put(mutant)
        tests = sorted({test for mutant in chosen for test in mutant.tests} - proven)
        threads = [
            threading.Thread(target=work, args=(tree, tests[number :: len(workers)], waiting), daemon=True)
            for number, tree in enumerate(workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return verdicts


def main() -> str:
    """Run the command line. Return why it failed, for sys.exit()."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="exclude slow mutants")
    parser.add_argument("words", nargs="*", metavar="WORD", help="a topic, or a part of a file's or test's name")
    options = parser.parse_args()
    mutants = selected(all_mutants(), options.words, fast=options.fast)
    table = rows()
    if wrong := [f"{mutant.name}: {fault}" for mutant in mutants for fault in faults(mutant, table)]:
        parser.error("\n".join(wrong))
    if not mutants:
        parser.error("no mutant is selected; name a topic, a file or a test")
    began = time.monotonic()
    verdicts = run_all(mutants)
    summary = (
        f"{verdicts[Verdict.KILLED]} of {len(mutants)} mutants killed, {verdicts[Verdict.SURVIVED]} survived, "
        f"{verdicts[Verdict.UNJUDGED]} not judged, in {time.monotonic() - began:.0f} s"
    )
    print(summary)  # noqa: T201
    return "" if verdicts[Verdict.KILLED] == len(mutants) else "not all mutants are killed"


if __name__ == "__main__":
    sys.exit(main() or 0)
