"""No object of a connection remains after any kind of end, counted in a separate interpreter."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_thousands_of_connections_leave_no_objects_behind() -> None:
    script = Path(__file__).parent / "isolated" / "leaks.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
