"""The demo's loop and its end: pauses, --once and its time limit, signals, exit codes."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys

import pytest

from podidentity_demo.demo import StepError, run
from podidentity_demo.settings import DemoSettings
from tests.contract.demo.conftest import names_of
from tests.contract.sandbox.azure.conftest import Azure
from tests.support.waiting import LIMIT_SECONDS


class EnoughError(Exception):
    pass


def go(failures: int, once_seconds: float | None) -> tuple[int | None, list[float], list[str]]:
    """Run a step that fails so often first. Return the code, the pauses and the lines; no code after 1000 pauses."""
    lines: list[str] = []
    pauses: list[float] = []
    outcomes = itertools.chain(itertools.repeat(False, failures), itertools.repeat(True))

    def step() -> str:
        if not next(outcomes):
            raise StepError("not yet")
        return "done"

    def sleep(seconds: float) -> None:
        if len(pauses) == 1000:
            raise EnoughError
        pauses.append(seconds)

    def clock() -> float:
        return 100.0 + sum(pauses)

    try:
        code = run(
            [("do it", step)], wait_seconds=20, once_seconds=once_seconds, say=lines.append, sleep=sleep, clock=clock
        )
    except EnoughError:
        return None, pauses, lines
    return code, pauses, lines


def test_the_loop_never_ends_after_failures() -> None:
    code, pauses, _ = go(2, None)
    assert (code, set(pauses)) == (None, {20})


def test_once_ends_with_the_first_run_without_failure_or_if_the_next_run_would_start_too_late() -> None:
    assert go(0, 300) == (0, [], ["done"])
    assert go(2, 300) == (0, [20, 20], ["failed to do it, error: not yet"] * 2 + ["done"])
    code, pauses, lines = go(1000, LIMIT_SECONDS)
    assert (code, pauses) == (1, [20, 20, 20])
    assert lines[-1] == "gave up after 60 s; failed last: do it"


async def ended(*argv: str, **environ: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "podidentity_demo", *argv]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    )
    return done.returncode, done.stdout, done.stderr


async def test_the_exit_code_is_0_if_every_step_succeeded(azure: Azure, settings: DemoSettings) -> None:
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    code, output, errors = await ended(*names_of(azure), "--once", MY_POD_NAME="demo")
    assert (code, errors) == (0, "")
    assert output.splitlines()[0] == "starting demo pod demo"
    assert len(output.splitlines()) == 5


async def test_the_exit_code_is_1_if_a_step_failed_and_2_after_a_usage_error(
    azure: Azure, settings: DemoSettings
) -> None:
    code, output, errors = await ended(*names_of(azure), "--once", "--timeout=0.1")
    assert (code, errors) == (1, "")
    assert output.splitlines()[-1].startswith("gave up after ")
    code, output, errors = await ended(*names_of(azure)[:2])
    assert (code, output) == (2, "")
    assert "--resourcegroup" in errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_ends_the_program_immediately(
    number: signal.Signals, code: int, azure: Azure, settings: DemoSettings
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "podidentity_demo", *names_of(azure), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), LIMIT_SECONDS)
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), LIMIT_SECONDS) == code
