"""The table in docs/reliability.md, from the results of `make e2e-node`: `python -m tests.system.node.report`."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.report.marks import put
from tests.support.checkout import ROOT
from tests.support.testplane import up
from tests.system.node import oci
from tests.system.node.evaluation import Result
from tests.system.node.programs import IMAGES
from tests.system.node.scenario import RESULTS

DOCUMENT: Final = ROOT / "docs" / "reliability.md"
MAKER: Final = "tests.system.node.report"


def table(results: Sequence[Result], circumstances: str) -> str:
    """Return the results as a table, with a line about the *circumstances* of the run."""
    rows = [
        f"| {each.scenario} | {each.interruption_seconds:.1f} | {each.refused} | {each.failed} | {each.leaked} "
        f"| {each.wrong} |"
        for each in results
    ]
    remarks = [f"* {each.scenario}: {each.remark}" for each in results if each.remark]
    return "\n".join(
        [
            "| event | interruption (s) | refused | failed | leaked | wrong identity |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            *remarks,
            *([""] if remarks else []),
            circumstances,
        ]
    )


def circumstances() -> str:
    """Return the machine and the versions of the sources as a sentence."""
    command = ["git", "log", "-1", "--format=%cs, chart of commit %h"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    images = oci.read_labels(IMAGES / "nmi.tar").get("org.opencontainers.image.revision", "unknown")[:7]
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Kubernetes {up.VERSION}"
    return f"Run: {commit}, images of commit {images}; {machine}."


def main(results: Path = RESULTS, document: Path = DOCUMENT) -> None:
    """Write the results into the document. Exit with a message if there are none."""
    try:
        found = msgspec.json.decode(results.read_bytes(), type=list[Result])
    except FileNotFoundError:
        sys.exit(f"{results} is missing; run: make e2e-node")
    put(document, MAKER, table(found, circumstances()))


if __name__ == "__main__":
    main()
