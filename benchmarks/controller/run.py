"""Measures MIC and writes a results file:

    python -m benchmarks.controller.run [--only NAME …] [--results FOLDER]

Everything takes about twelve minutes on two cores. NAME is one of the parts that `--help` lists. The results file is
`controller-<date>-<commit>.json`; its table is printed, and `python -m benchmarks.controller.table` writes it to the
documentation.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks.controller import cases
from benchmarks.controller.cases import Row, rounded
from benchmarks.controller.cloud import CaseServers, case_servers
from benchmarks.controller.first_token import first_tokens
from benchmarks.controller.large import at_the_design_point
from benchmarks.controller.reading_cost import ReadingCost
from benchmarks.controller.table import table, tokens_table
from benchmarks.machine import ROOT, commit, facts

SIZES: Final = ((1_000, 100, 50, 3), (10_000, 1_000, 500, 3), (100_000, 10_000, 5_000, 1))
"""Pods, nodes, bindings and repetitions."""
STREAM: Final = "watch stream"


def fed(sizes: Sequence[tuple[int, int, int, int]] = SIZES) -> list[Row]:
    """Measure the watch stream at each size, in a separate process each time."""
    rows = []
    for pods, nodes, bindings, times in sizes:
        command = [sys.executable, "-m", "benchmarks.controller.reading_cost", str(pods), str(nodes), str(bindings)]
        costs = [
            ReadingCost(
                **json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=300).stdout)
            )
            for _ in range(times)
        ]
        names = [name for name in ReadingCost.__annotations__ if name not in {"nodes", "bindings"}]
        middle = {name: float(statistics.median(getattr(cost, name) for cost in costs)) for name in names}
        rows.append(Row(f"{STREAM}, {pods:,} pods", 0.0, middle))
    return rows


async def quick(made: CaseServers) -> AsyncIterator[Row]:
    """Run the cases with short operations or operations of five seconds, one after the other."""
    async with made.mic(cases.RAISED):
        for operation, times in ((0.0, 5), (0.2, 5), (5.0, 3)):
            yield await cases.one_pod(made, operation, times)
        for operation, times in ((0.0, 3), (5.0, 3)):
            yield await cases.forty_pods(made, operation, times)
        yield await cases.rolling_restart(made, 5.0)


async def slow(made: CaseServers) -> AsyncIterator[Row]:
    """Run the cases with operations of forty seconds concurrently, since they mostly wait."""
    async with made.mic(cases.RAISED):
        for row in await asyncio.gather(
            cases.one_pod(made, 40.0, 1),
            cases.forty_pods(made, 40.0, 1),
            cases.slow_next_to_fast(made),
            cases.one_bad(made),
        ):
            yield row


async def many(made: CaseServers) -> AsyncIterator[Row]:
    """Run the cases with 2,000 pods. The last ones are not deleted: the deletion is measured at the raised rate."""
    for operation in (0.0, 5.0, 40.0):
        for row in await cases.two_thousand(made, operation, "raised"):
            yield row
    for row in await cases.two_thousand(made, 5.0, "default", deleted=False):
        yield row


PARTS: Final[Mapping[str, tuple[Callable[[CaseServers], AsyncIterator[Row]], bool]]] = {
    "quick": (quick, True),
    "slow": (slow, True),
    "many": (many, True),
    "leaders": (cases.handing_over, False),
    "large": (at_the_design_point, False),
}
"""The parts with a separate API server, and whether they use kwok."""


EVERY: Final = ["fed", *PARTS, "tokens"]


async def measured(part: str) -> list[Row]:
    """Return all rows of a part. Each part has a new cluster."""
    measure, kwok = PARTS[part]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        async with case_servers(Path(folder), kwok=kwok) as made:
            await made.identities(f"id-{number}" for number in range(20))
            async for row in measure(made):
                sys.stderr.write(f"  {json.dumps(rounded(row))}\n")
                rows.append(row)
    return rows


def machine() -> dict[str, Any]:
    """Return the properties of the machine that the figures depend on, without its name."""
    properties = facts()
    return {
        "cpu": properties.cpu,
        "cores": properties.cores,
        "kernel": properties.kernel,
        "python": properties.versions["Python"],
        "uvloop": properties.versions["uvloop"],
        "memory_gib": properties.memory_gib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.controller.run", description="Measures MIC.")
    parser.add_argument("--only", nargs="+", choices=EVERY, default=EVERY, metavar="NAME")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    began, load, (head, changed) = time.monotonic(), {}, commit()
    rows: list[Row] = []
    for part in options.only:
        load[f"before {part}"] = round(os.getloadavg()[0], 2)
        sys.stderr.write(f"{part}, after {time.monotonic() - began:.0f} s\n")
        match part:
            case "fed":
                rows += fed()
            case "tokens":
                rows += uvloop.run(first_tokens())
            case _:
                rows += uvloop.run(measured(part))
    results = {
        "commit": head + ("+" if changed else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "load": load | {"after": round(os.getloadavg()[0], 2)},
        "took_seconds": round(time.monotonic() - began),
        "rows": [rounded(row) for row in rows],
    }
    file = options.results / f"controller-{results['date']}-{results['commit']}.json"
    options.results.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write("\n\n".join(filter(None, (table(results), tokens_table(results), file.name))) + "\n")


if __name__ == "__main__":
    main()
