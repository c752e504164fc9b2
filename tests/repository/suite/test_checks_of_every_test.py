"""The checks of every test: blocking calls in the daemons' code, secrets in output, the time limit, and pauses.

A blocking call in the daemons' code is an error while an event loop runs; tests and emulators may block. The time limit
ends property tests and busy event loops, and the next test runs.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest
from blockbuster import BlockingError

from podidentity_sandbox.directory import Directory
from podidentity_sandbox.tokens import TokenMint
from tests.support.checkout import ROOT
from tests.support.leaks import Ledger
from tests.support.machine_pauses import Pause, paused_seconds, recorded_pauses
from tests.support.waiting import until_sync


def block(path: str) -> None:
    """Sleep in a function that belongs to the file *path*."""
    names: dict[str, Any] = {"time": time}
    exec(compile("def wait(): time.sleep(0)", ROOT / path, "exec"), names)  # noqa: S102 - the path is the point
    names["wait"]()


@pytest.mark.parametrize("path", ["nmi/app.py", "mic/app.py", "podidentity/kube/client.py"])
async def test_a_daemon_must_not_block_its_loop_and_other_code_may(path: str) -> None:
    with pytest.raises(BlockingError):
        block(path)
    for file in ("podidentity_sandbox/serving.py", "tests/fakes.py"):
        block(file)


def test_a_daemon_may_block_without_a_loop() -> None:
    block("nmi/app.py")


def test_shutil_finds_the_functions_of_os() -> None:
    assert os.stat in os.supports_follow_symlinks


def test_a_token_a_part_of_it_and_a_secret_are_found_also_in_captured_output(ledger: Ledger) -> None:
    token = TokenMint().mint(audience="a", client_id="c", object_id="o", tenant_id="t")
    secret = Directory().add_principal().secret
    for text in (token, f"it is {token}.", token.rpartition(".")[2], token.rpartition(".")[0], f"x{secret}y"):
        assert ledger.found_in(text), text
        assert ledger.found_in_sections([("Captured log call", "well"), ("Captured stderr call", text)])
    assert not ledger.found_in("eyJhbGciOiJSUzI1NiJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA and an ordinary line")
    assert not ledger.found_in_sections([("Captured log call", "well"), ("Captured stderr call", "well")])


PROPERTY: Final = """
import signal
import pytest
from hypothesis import given, settings, strategies as st

reached = []

@pytest.mark.timeout(600)  # Hypothesis reads modules first, which a signal must not interrupt
@settings(max_examples=10**6, deadline=None, database=None)
@given(st.lists(st.integers()))
def test_it(numbers):
    if not reached:
        reached.append(True)  # once, as in a test that waits: a limit that Hypothesis catches is flaky
        signal.raise_signal(signal.SIGALRM)
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
COMPUTING: Final = """
import pytest
from tests.support import time_limit

time_limit.CPU_SECONDS = 1.0

@pytest.mark.timeout(600)  # of real time, of which a busy machine needs more for a second of computing
def test_computing():
    while True:
        pass
"""


def test_a_test_ends_at_its_limit_and_the_next_one_runs(tmp_path: Path) -> None:
    for name, source in (("property", PROPERTY), ("busy_task", BUSY_TASK), ("computing", COMPUTING)):
        (tmp_path / f"test_{name}.py").write_text(f"{source}\n\ndef test_the_next():\n    pass\n")
    # Without a summary, which repeats the messages where the variable CI is set.
    flags = ["-q", "-rN", "-pno:cloudcoil", "-ptests.support.time_limit", "-otimeout=2", f"-c{os.devnull}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, f"--rootdir={tmp_path}", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 failed, 3 passed" in done.stdout
    assert done.stdout.count("Failed: Timeout (>2.0s): the test did not end") == 1
    assert done.stdout.count("Failed: Timeout (>600.0s): the test did not end") == 1
    assert done.stdout.count("Failed: Timeout (>1.0s of CPU time): the test did not end") == 1
    assert "Flaky" not in done.stdout


STOPPED_SECONDS = 0.5


@pytest.mark.parametrize(
    ("begin", "end", "seconds"), [(0.0, 10.0, 1.5), (1.5, 4.25, 0.75), (2.0, 4.0, 0.0), (6.0, 9.0, 0.0)]
)
def test_only_the_part_of_a_pause_within_the_time_counts(begin: float, end: float, seconds: float) -> None:
    assert paused_seconds([Pause(1.0, 2.0), Pause(4.0, 4.5)], begin, end) == seconds


def test_the_time_in_which_the_program_did_not_run_is_recorded() -> None:
    """The recording program alone is stopped."""
    with recorded_pauses(STOPPED_SECONDS / 2) as recorder:
        os.kill(recorder.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, recorder.pid, os.WSTOPPED | os.WNOWAIT)
        begin = time.time()
        time.sleep(STOPPED_SECONDS)
        end = time.time()
        os.kill(recorder.pid, signal.SIGCONT)
        until_sync(recorder.pauses, "a pause is recorded")
        assert paused_seconds(recorder.pauses(), begin, end) == pytest.approx(end - begin)
        assert all(pause.seconds >= STOPPED_SECONDS / 2 for pause in recorder.pauses())
