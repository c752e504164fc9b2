"""A connection knows whether a nat rule sent it here: that is what host tokens will hang on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.root
def test_a_redirected_connection_tells_where_it_was_meant_to_go_and_a_direct_one_does_not() -> None:
    script = Path(__file__).parent / "isolated" / "redirected.py"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["('169.254.169.254', 80)", "None"]
