"""The fixtures that check every test (tests/conftest.py) detect the faults for which they exist."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT

SAMPLES = """
import asyncio, threading, time
import pytest
from podidentity.kube.access import in_cluster
from tests.support import waiting

waiting.LIMIT_SECONDS = 2.0

async def test_blocks(tmp_path):
    (tmp_path / "token").write_text("t")
    in_cluster(tmp_path, {"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "1"})

KEPT = []

async def test_leaves_a_task():
    KEPT.append(asyncio.create_task(asyncio.Event().wait()))

async def test_awaits_its_task():
    await asyncio.create_task(asyncio.sleep(0))

def test_leaves_a_thread():
    threading.Thread(target=time.sleep, args=(60,), name="loiterer", daemon=True).start()

def test_ends_its_thread():
    threading.Thread(target=time.sleep, args=(0.01,)).start()

@pytest.mark.skip(reason="no mood")
def test_skips(): pass

@pytest.mark.xfail(strict=True)
def test_fails_as_expected(): assert False
"""


def outcomes(tmp_path: Path, **environ: str) -> dict[str, str]:
    (tmp_path / "test_samples.py").write_text(SAMPLES)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
    ]
    ran = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), "-v", "--tb=no", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "CI": "", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found: dict[str, str] = {}
    for line in ran.stdout.splitlines():
        test, _, outcome = line.partition("::")[2].partition(" ")
        if outcome.split(" ")[0] in {"PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL"}:
            found[test] = outcome.split(" ")[0]
    return found


def test_each_sample_has_its_outcome_in_ci(tmp_path: Path) -> None:
    assert outcomes(tmp_path, CI="true") == {
        "test_blocks": "FAILED",
        "test_leaves_a_task": "ERROR",
        "test_awaits_its_task": "PASSED",
        "test_leaves_a_thread": "ERROR",
        "test_ends_its_thread": "PASSED",
        "test_skips": "ERROR",
        "test_fails_as_expected": "XFAIL",
    }
