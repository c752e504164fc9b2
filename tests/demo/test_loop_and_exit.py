"""The demo's loop and its end: pauses, --once and its time limit, signals, exit codes."""

import asyncio
import os
import signal
import sys

import pytest

from podidentity_demo.loop import run
from podidentity_demo.settings import Settings
from podidentity_demo.steps import StepError
from tests.sandbox.azure.conftest import GROUP, SUBSCRIPTION, Azure


class Clock:
    """A clock that advances only in sleeps. Raise EnoughError after *most* sleeps."""

    def __init__(self, most: int = 1000) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []
        self._most = most

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if len(self.sleeps) == self._most:
            raise EnoughError
        self.sleeps.append(seconds)
        self.now += seconds


class EnoughError(Exception):
    pass


def failing(times: float) -> tuple[str, object]:
    left = [times]

    def step() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise StepError("not yet")
        return "done"

    return ("do it", step)


def go(times: float, once_seconds: float | None, clock: Clock) -> tuple[int, list[str]]:
    lines: list[str] = []
    name, step = failing(times)
    assert callable(step)
    code = run(
        [(name, step)], wait_seconds=20, once_seconds=once_seconds, say=lines.append, sleep=clock.sleep, clock=clock
    )
    return code, lines


def test_the_loop_never_ends_after_failures() -> None:
    clock = Clock(most=5)
    with pytest.raises(EnoughError):
        go(2, None, clock)
    assert clock.sleeps == [20] * 5


def test_once_ends_with_the_first_run_without_failure() -> None:
    assert go(0, 300, Clock()) == (0, ["done"])
    clock = Clock()
    assert go(2, 300, clock) == (0, ["failed to do it, error: not yet"] * 2 + ["done"])
    assert clock.sleeps == [20, 20]


def test_once_ends_if_the_next_run_would_start_too_late() -> None:
    clock = Clock()
    code, lines = go(1000, 60, clock)
    assert code == 1
    assert clock.sleeps == [20, 20, 20]
    assert lines[-1] == "gave up after 60 s; failed last: do it"


async def ended(*argv: str, environ: dict[str, str] | None = None) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "podidentity_demo", *argv,
        env={**os.environ, **(environ or {})}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, output.decode(), errors.decode()


def names(azure: Azure) -> list[str]:
    return [f"--subscriptionid={SUBSCRIPTION}", f"--clientid={azure.one.client_id}", f"--resourcegroup={GROUP}"]


async def test_the_exit_code_is_0_if_every_step_succeeded(azure: Azure, settings: Settings) -> None:
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    code, output, errors = await ended(*names(azure), "--once", environ={"MY_POD_NAME": "demo"})
    assert (code, errors) == (0, "")
    assert output.splitlines()[0] == "starting demo pod demo"
    assert len(output.splitlines()) == 5


async def test_the_exit_code_is_1_if_a_step_failed(azure: Azure, settings: Settings) -> None:
    code, output, errors = await ended(*names(azure), "--once", "--timeout=0.1")
    assert (code, errors) == (1, "")
    assert output.splitlines()[-1].startswith("gave up after ")


async def test_the_exit_code_of_a_usage_error_is_2(azure: Azure, settings: Settings) -> None:
    code, output, errors = await ended(*names(azure)[:2])
    assert (code, output) == (2, "")
    assert "--resourcegroup" in errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_ends_the_program_immediately(
    number: signal.Signals, code: int, azure: Azure, settings: Settings
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "podidentity_demo", *names(azure), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 60)
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), 60) == code
