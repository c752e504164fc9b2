"""The listener on the node's address serves only connections that a rule redirected from the metadata address."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAST = "HTTP/1.1 200 OK"


@pytest.mark.root
def test_only_redirected_connections_to_the_nodes_address_are_served() -> None:
    script = Path(__file__).parent / "isolated" / "node_listener.py"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"redirected {FAST}",
        "node reset",
        "service reset",
        "other port reset",
        "other address reset",
        f"redirected again {FAST}",
        f"loopback {FAST}",
        "closed 4 last 169.254.169.253",
        "tracked 0 1",
        "flushed 1 0",
        "adopted 169.254.169.254 80 True",
        "adopted 169.254.169.254 82 False",
        "adopted 10.0.0.1  False",
        "adopted 127.0.0.1  True",
    ]
