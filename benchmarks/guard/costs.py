"""Instructions of a request: by function, and of the requests that cost NMI most (`tests.support.corpus.costly`)."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.guard.callgrind import Dump
from benchmarks.guard.counting import dumped, per_request, tool
from benchmarks.report.table import grid
from tests.support.corpus.costly import COSTLY

FUNCTIONS_SHOWN: Final = 20
INSTRUCTIONS_MAX: Final = 2_500_000
"""Instructions of one request: 0.5 ms on a processor that executes 5 per ns. Current ones execute more of these."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one request on a new connection."""

    name: str
    sent: int
    """Bytes that the pod sends."""
    instructions: float
    """Instructions of the whole process in user space."""

    @property
    def per_byte(self) -> float:
        return self.instructions / self.sent


def costs() -> list[Cost]:
    """Return the costs, the highest first. Raises ToolMissingError and RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="guard-") as folder:
        counted = dumped(tool("valgrind"), Path(folder), list(COSTLY))
    every = [
        Cost(name, len(COSTLY[name][1]), sum(per_request(dump, requests).values()))
        for name, (dump, requests) in counted.items()
    ]
    return sorted(every, key=lambda cost: -cost.instructions)


def table(every: list[Cost]) -> str:
    """Return a Markdown table of *every*."""
    rows = [[cost.name, f"{cost.sent:,}", f"{cost.instructions:,.0f}", f"{cost.per_byte:,.0f}"] for cost in every]
    return grid(["request", "bytes", "instructions", "instructions a byte"], rows)


def function_tables() -> Iterator[str]:
    """Return a heading and a Markdown table for each batch. Raises ToolMissingError and RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="guard-") as folder:
        for batch, (dump, requests) in dumped(tool("valgrind"), Path(folder), ()).items():
            yield f"### {batch}\n\n{function_table(dump, requests)}"


def function_table(dump: Dump, requests: int) -> str:
    """Return the most expensive functions without callees, per request.

    A dash marks a call that began before the count.
    """
    rows = [
        [
            f"{function.object}: {function.name}",
            f"{own / requests:,.1f}",
            f"{dump.with_callees[function] / requests:,.1f}" if dump.with_callees[function] else "-",
            f"{dump.calls[function] / requests:,.2f}" if dump.calls[function] else "-",
        ]
        for function, own in dump.own.most_common(FUNCTIONS_SHOWN)
    ]
    return grid(["function", "itself", "with callees", "calls"], rows)
