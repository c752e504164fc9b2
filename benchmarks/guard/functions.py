"""Instructions of a request by function."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.guard.callgrind import Dump
from benchmarks.guard.counting import dumped, tool
from benchmarks.report.table import grid

SHOWN: Final = 20


def tables() -> Iterator[str]:
    """Return a heading and a Markdown table for each batch. Raises ToolMissingError and RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="guard-") as room:
        for batch, (dump, requests) in dumped(tool("valgrind"), Path(room), ()).items():
            yield f"### {batch}\n\n{table(dump, requests)}"


def table(dump: Dump, requests: int) -> str:
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
        for function, own in dump.own.most_common(SHOWN)
    ]
    return grid(["function", "itself", "with callees", "calls"], rows)
