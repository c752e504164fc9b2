"""The time limit ends property tests and busy event loops, and the next test runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

PROPERTY: Final = """
import time
from hypothesis import given, settings, strategies as st

@settings(max_examples=10**6, deadline=None, database=None)
@given(st.lists(st.integers()))
def test_it(numbers):
    time.sleep(0.005)
"""
MACHINE: Final = """
import time
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule

class Machine(RuleBasedStateMachine):
    @rule()
    def wait(self):
        time.sleep(0.005)

Machine.TestCase.settings = settings(max_examples=10**6, deadline=None, database=None)
TestIt = Machine.TestCase
"""
BUSY_TASK: Final = """
import asyncio, time

def test_it():
    async def busy():
        while True:
            time.sleep(0.01)

    async def main():
        await asyncio.wait([asyncio.create_task(busy())])
        await asyncio.sleep(60)

    asyncio.run(main())
"""
NEXT: Final = """

def test_the_next():
    pass
"""


def test_a_test_ends_at_its_limit_and_the_next_one_runs(tmp_path: Path) -> None:
    sources = {"property": PROPERTY, "machine": MACHINE, "busy_task": BUSY_TASK}
    for name, source in sources.items():
        (tmp_path / f"test_{name}.py").write_text(source + NEXT)
    # Without a summary, which repeats the messages where the variable CI is set.
    flags = ["-q", "-rN", "-pno:cloudcoil", "-ptests.time_limit", "-otimeout=2", f"-c{os.devnull}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, f"--rootdir={tmp_path}", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 failed, 3 passed" in done.stdout
    assert done.stdout.count("Failed: Timeout (>2.0s): the test did not end") == 3
    assert "Flaky" not in done.stdout
