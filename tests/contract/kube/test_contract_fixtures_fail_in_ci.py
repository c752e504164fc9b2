"""The fixtures that check every test (tests/conftest.py) detect the faults for which they exist."""

import os
import re
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


def test_each_sample_has_its_outcome_in_ci(tmp_path: Path) -> None:
    (tmp_path / "test_samples.py").write_text(SAMPLES)
    plugins = ("-p", "tests.conftest", "-p", "no:cacheprovider")
    where = ("-c", str(ROOT / "pyproject.toml"), f"--rootdir={tmp_path}", str(tmp_path))
    command = [sys.executable, "-m", "pytest", *plugins, "-v", "--tb=no", *where]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "CI": "true"}, capture_output=True, text=True, timeout=120, check=False
    )
    assert dict(re.findall(r"::(\w+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b", ran.stdout)) == {
        "test_blocks": "FAILED",
        "test_leaves_a_task": "ERROR",
        "test_awaits_its_task": "PASSED",
        "test_leaves_a_thread": "ERROR",
        "test_ends_its_thread": "PASSED",
        "test_skips": "ERROR",
        "test_fails_as_expected": "XFAIL",
    }
