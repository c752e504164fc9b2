"""A command that tools/with_progress.py runs for the Makefile fails with its output and its exit code."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_failure_prints_the_whole_output_and_keeps_the_exit_code() -> None:
    code = "import sys; print('Collecting one', flush=True); sys.exit('no such package')"
    command = [sys.executable, "-m", "tools.with_progress", "packages", "3", "^Collecting (\\w+)"]
    done = subprocess.run([*command, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("Collecting one\nno such package\n")
