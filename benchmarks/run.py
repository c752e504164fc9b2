"""`python -m benchmarks.run [--quick] [--only PART …]`, or `make bench`: the complete suite on this machine.

It writes a file and its table in benchmarks/results, and prints the table. It needs two cores without other load: it
detects other load, waits for its end and reports it.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks import machine
from benchmarks.budgets import budgets
from benchmarks.load import cases, cpu_limit, disturbances, loops
from benchmarks.load.benchmark_node import BenchmarkNode, behind_the_rule, on_loopback
from benchmarks.load.cases import Load
from benchmarks.load.footprint import started, weighed
from benchmarks.load.loops import Pace
from benchmarks.load.mounted import possible
from benchmarks.load.nginx import UNPACKED
from benchmarks.load.reference import binary, footprint
from benchmarks.load.servers import program_path
from benchmarks.machine import Cores
from benchmarks.report.table import store
from benchmarks.results import FOLDER, Results, write
from nmi.choices import RedirectTarget
from podidentity_sandbox.processes import ProgramError

FULL_SECONDS: Final = 800.0
"""The limit for waits and repetitions, so that the run ends within 15 minutes."""
QUICK_SECONDS: Final = 120.0
CHART_CORES: Final = 1.0
"""The chart's default for NMI's limits.cpu."""
LEFT_OUT: Final = (
    "Servers and clients share one machine's loopback, except in the rows of the nat rule: there is no network card.",
    "nginx sends the same bytes and looks at nothing; NMI reads the request, knows the pod, counts down the token.",
    "No client sends more than one request at a time on a connection.",
    "IMDS and API server are emulators, IMDS without delay unless a row says otherwise.",
    "There is no access log: nginx's is off, and NMI logs decisions, not requests.",
    "With a connection per request the generator's core gives out before the server's (column core): compare CPU.",
    "NMI sends by reno, nginx by the machine's default: where that is BBR, 2 to 3 % of a kept connection's CPU.",
    "Only closed loops are done again when something disturbs them; of all else there is one measurement.",
)


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the suite."""

    quick: bool
    deadline: float
    cores: Cores
    results: Results
    """The results of the completed parts."""
    go: Path | None = None
    """The Go implementation's binary."""
    keys: frozenset[str] = frozenset()
    """The closed loops to measure; empty for all of the run."""

    @property
    def pace(self) -> Pace:
        return Pace(5 if self.quick else 15, 0.5 if self.quick else 0.7, self.deadline, self.quick)

    @property
    def control_pace(self) -> Pace:
        """Longer, since the random difference of the two p99 must be under 2 %."""
        return Pace(7 if self.quick else 21, 0.5 if self.quick else 1.0, self.deadline, self.quick)

    def full_node(self) -> None:
        with on_loopback(cases.PODS, go=self.go) as benchmark_node:
            if not self.keys:
                log_progress("control")
                self.results.control = loops.control(benchmark_node, self.cores, self.control_pace)
            self._closed(cases.ON_A_FULL_NODE, benchmark_node)
            if not self.keys:
                self._disturbances(benchmark_node)

    def _closed(self, loads: tuple[Load, ...], benchmark_node: BenchmarkNode) -> None:
        for load in loads:
            if self._selected(load):
                log_progress(load.title)
                self.results.cases += (loops.measured(load, benchmark_node, self.cores, self.pace),)

    def _selected(self, load: Load) -> bool:
        return load.key in self.keys if self.keys else load.quick or not self.quick

    def _disturbances(self, benchmark_node: BenchmarkNode) -> None:
        log_progress("open loop")
        seconds = 2.0 if self.quick else 5.0
        self.results.open_loop = loops.at_rates(
            cases.QUICK_RATES if self.quick else cases.RATES, benchmark_node, seconds
        )
        for disturbance in cases.BACKGROUND:
            if disturbance.quick or not self.quick:
                log_progress(disturbance.title)
                self.results.background += disturbances.measured(
                    disturbance, benchmark_node, 4.0 if self.quick else 8.0
                )

    def other_sizes(self) -> None:
        """Measure the effect of the number of pods. Not in a quick run, since the creation of 10,000 takes long."""
        if self.quick:
            return
        with on_loopback(cases.FEW) as few, on_loopback(cases.MANY) as many:
            log_progress(f"{cases.ONE_POD.title}, {cases.MANY_PODS.title}")
            both = ((cases.ONE_POD, few), (cases.MANY_PODS, many))
            self.results.cases += loops.side_by_side(both, self.cores, self.pace)
            self._closed((cases.MANY_PODS_CLOSE,), many)

    def through_the_rule(self) -> None:
        if os.geteuid() != 0:
            return
        for target, loads in (
            (RedirectTarget.LOOPBACK, cases.BEHIND_THE_RULE),
            (RedirectTarget.NODE, cases.TO_THE_NODE),
        ):
            if any(map(self._selected, loads)):
                with behind_the_rule(cases.PODS, target, go=self.go) as benchmark_node:
                    self._closed(loads, benchmark_node)

    def weight(self) -> None:
        for pods in (cases.PODS,) if self.quick else (cases.FEW, cases.PODS, cases.MANY):
            log_progress(f"memory, {pods} pods")
            self.results.memory += (weighed(pods),)
        if self.go is not None:
            log_progress("the Go implementation's start and memory")
            self.results.reference = footprint(self.go, cases.PODS)
        log_progress("start")
        self.results.starts += (started(cases.PODS), started(cases.PODS, kubeconfig=True))
        if cpu_limit.possible():
            self.results.starts += (started(cases.PODS, cores=CHART_CORES),)


PARTS: Final[dict[str, Callable[[Bench], None]]] = {
    "full-node": Bench.full_node,
    "other-sizes": Bench.other_sizes,
    "rule": Bench.through_the_rule,
    "memory": Bench.weight,
}


KEYS: Final = [load.key for load in (*cases.ON_A_FULL_NODE, *cases.BEHIND_THE_RULE, *cases.TO_THE_NODE)]
"""The values of --cases."""


def log_progress(what: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {what}\n")


def left_out(bench: Bench, parts: list[str]) -> tuple[str, ...]:
    """Return sentences on the limits of this run, and of all runs."""
    also = (
        [f"Parts that were not selected: {', '.join(sorted(set(PARTS) - set(parts)))}."]
        if len(parts) < len(PARTS)
        else []
    )
    if bench.quick:
        also.append("A quick run: few rounds; no nat rule, no 10,000 pods.")
    elif os.geteuid() != 0:
        also.append("The rows through the nat rule need root and were left out.")
    if not possible():
        also.append("NMI was weighed and started with a kubeconfig, not as in a pod: no mount namespaces here.")
    return (*LEFT_OUT, *also)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measures NMI.")
    parser.add_argument("--quick", action="store_true", help="three minutes, for an overview")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument(
        "--cases", nargs="+", choices=KEYS, default=[], metavar="KEY", help="only these closed loops of the parts"
    )
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder for the results")
    options = parser.parse_args()
    try:
        go = binary(os.environ)
    except ProgramError as error:
        parser.error(str(error))
    began, cores, (commit, changed) = time.monotonic(), Cores(), machine.commit()
    stolen = sum(cores.stolen(core) for core in (0, 1))
    results = Results(
        date=datetime.now(UTC),
        commit=commit,
        changed=changed,
        full=not options.quick and not options.cases and len(options.only) == len(PARTS),
        machine=machine.facts(program_path("nginx", UNPACKED)),
    )
    deadline = began + (QUICK_SECONDS if options.quick else FULL_SECONDS)
    bench = Bench(options.quick, deadline, cores, results, go, frozenset(options.cases))
    for part in options.only:
        log_progress(part)
        PARTS[part](bench)
    results.seconds = time.monotonic() - began
    results.stolen_seconds = sum(cores.stolen(core) for core in (0, 1)) - stolen
    results.budgets = budgets(results)
    results.left_out = left_out(bench, options.only)
    file = write(results, options.results)
    sys.stdout.write(f"{store(file, results).read_text()}\n{file}\n")


if __name__ == "__main__":
    main()
