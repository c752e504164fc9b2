"""The time limit ends property tests and busy event loops, and the next test runs."""

import os
import subprocess
import sys
import time
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
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-r",
        "N",
        "-p",
        "no:cloudcoil",
        "-p",
        "tests.time_limit",
        "-c",
        os.devnull,
    ]
    begin = time.monotonic()
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", "-o", "timeout=2", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "3 failed, 3 passed" in done.stdout
    assert done.stdout.count("Failed: Timeout (>2.0s): the test did not end") == 3
    assert "Flaky" not in done.stdout
    assert time.monotonic() - begin < 60
