"""tools/with_progress.py, which runs the long commands of the Makefile: steps, output of a failure, exit code."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code: str, *, pause: str = "0") -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from tools import with_progress; "
        f"with_progress.PAUSE_SECONDS = {pause}; sys.exit(with_progress.main(*sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "packages", "3", "^Collecting (\\w+)", sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_each_step_is_printed_with_its_subject_and_the_other_output_is_not() -> None:
    done = run("print('Collecting one'); print('noise'); print('Collecting two')", pause="-1")
    lines = done.stderr.splitlines()
    assert (done.returncode, lines[:2]) == (0, ["packages: 1 of 3 one", "packages: 2 of 3 two"])
    assert lines[2].startswith("packages: done in ")
    assert len(lines) == 3


def test_the_number_of_steps_is_never_above_the_total() -> None:
    done = run("for each in range(5): print('Collecting', each)", pause="-1")
    assert done.stderr.splitlines()[-2] == "packages: 3 of 3 4"


def test_without_a_terminal_lines_come_in_intervals() -> None:
    done = run("for each in range(3): print('Collecting', each)", pause="1000")
    assert [line.partition(" in ")[0] for line in done.stderr.splitlines()] == ["packages: done"]


def test_a_failure_prints_the_whole_output_and_keeps_the_exit_code() -> None:
    done = run("import sys; print('Collecting one', flush=True); sys.exit('no such package')", pause="1000")
    assert (done.returncode, done.stderr) == (1, "Collecting one\nno such package\n")
