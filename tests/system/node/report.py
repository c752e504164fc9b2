"""The table in docs/reliability.md, from the results of `make e2e-node`: `python -m tests.system.node.report`."""

import os
import platform
import subprocess
import sys
from typing import Final

import msgspec

from benchmarks.report.marks import put
from tests.support.checkout import ROOT
from tests.support.testplane import up
from tests.system.node import oci
from tests.system.node.evaluation import Result
from tests.system.node.programs import IMAGES
from tests.system.node.scenario import RESULTS

HEAD: Final = (
    "| event | interruption (s) | refused | failed | leaked | wrong identity |",
    "| --- | --- | --- | --- | --- | --- |",
)


def main() -> None:
    """Write the results into the document, with the machine and the versions. Exit with a message without results."""
    try:
        results = msgspec.json.decode(RESULTS.read_bytes(), type=list[Result])
    except FileNotFoundError:
        sys.exit(f"{RESULTS} is missing; run: make e2e-node")
    rows = [
        f"| {result.scenario} | {result.interruption_seconds:.1f} | {result.refused} | {result.failed} "
        f"| {result.leaked} | {result.wrong} |"
        for result in results
    ]
    remarks = "".join(f"\n* {result.scenario}: {result.remark}" for result in results if result.remark)
    command = ["git", "log", "-1", "--format=%cs, chart of commit %h"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    images = oci.commit_of(IMAGES / "nmi.tar")
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Kubernetes {up.VERSION}"
    run = f"Run: {commit}, images of commit {images}; {machine}."
    parts = ("\n".join([*HEAD, *rows]), remarks.strip(), run)
    put(ROOT / "docs" / "reliability.md", "tests.system.node.report", "\n\n".join(filter(None, parts)))


if __name__ == "__main__":
    main()
