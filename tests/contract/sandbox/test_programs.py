"""Programs of the sandbox: their images and arguments, their processes, which do not outlive the sandbox, and the times
at which an ended one starts again."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from podidentity_sandbox.launching import expanded, program_of
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.processes import HEALTHY_SECONDS, LONGEST_SECONDS, Program, Restarts
from tests.support.waiting import until, until_sync


@pytest.mark.parametrize(
    ("image", "program"),
    [
        ("aad-pod-identity/nmi:1.0.0-rc.1", "nmi"),
        ("mcr.microsoft.com/oss/azure/aad-pod-identity/mic:v1.8.17", "mic"),
        ("registry.invalid/aad-pod-identity/demo@sha256:00", "demo"),
        ("aad-pod-identity/nmi-tools:1", ""),
        ("pause", ""),
    ],
)
def test_an_image_is_recognised_by_its_name(image: str, program: str) -> None:
    assert program_of(image) == program


@pytest.mark.parametrize(
    ("argument", "becomes"),
    [
        ("--node=$(NODE_NAME)", "--node=node-0"),
        ("$(NODE_NAME)$(NODE_NAME)", "node-0node-0"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(NODE_NAME)", "$(NODE_NAME)"),
        ("$NODE_NAME", "$NODE_NAME"),
    ],
)
def test_arguments_are_expanded_as_kubernetes_does(argument: str, becomes: str) -> None:
    assert expanded(argument, {"NODE_NAME": "node-0"}) == becomes


HERE = ExecutionContext("127.0.0.1", environment={"PLACE": "here"})


async def start(tmp_path: Path, code: str) -> Program:
    argv = [sys.executable, "-u", "-c", code]
    return await Program.start("it", argv, context=HERE, log=tmp_path / "log", environment={"A": "b"})


async def until_printed(program: Program, word: str) -> None:
    await until(program.output, holds=lambda text: word in text)


async def test_a_program_gets_only_its_environment_and_its_output_is_readable(tmp_path: Path) -> None:
    program = await start(tmp_path, "import os; print(os.environ['A'], os.environ['PLACE'], os.environ.get('HOME'))")
    assert await program.wait() == 0
    assert program.output() == "b here None\n"
    assert str(program.exit_error()) == "it ended with code 0: b here None"


async def test_the_error_of_a_program_that_ends_has_no_log_lines(tmp_path: Path) -> None:
    program = await start(tmp_path, "import sys; print('I0101 a log line'); sys.exit('nmi: no such flag; omit it')")
    assert await program.wait() == 1
    assert str(program.exit_error()) == "it ended with code 1: nmi: no such flag; omit it"


async def test_a_program_that_ends_cleanly_keeps_its_exit_code(tmp_path: Path) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('up'); signal.pause()"
    program = await start(tmp_path, code)
    await until_printed(program, "up")
    assert await program.stop() == 7
    assert await program.stop() == 7


async def test_a_program_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    program = await start(
        tmp_path, "import signal; signal.signal(15, signal.SIG_IGN); print('up')\nwhile 1: signal.pause()"
    )
    await until_printed(program, "up")
    assert await program.stop(0.1) == -signal.SIGKILL


async def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    program = await Program.start("it", ["/no/such"], context=HERE, log=tmp_path / "log", environment={})
    assert await program.wait() != 0
    assert "/no/such" in str(program.exit_error())


def test_a_program_ends_with_its_killed_sandbox(tmp_path: Path) -> None:
    owner = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from podidentity_sandbox.network import ExecutionContext\n"
        "from podidentity_sandbox.processes import Program\n"
        "async def run():\n"
        f"    log = Path({str(tmp_path / 'log')!r})\n"
        "    paths = {'PATH': '/bin:/usr/bin'}\n"
        "    here = ExecutionContext('')\n"
        "    it = await Program.start('it', ['sleep', '600'], context=here, log=log, environment=paths)\n"
        "    print(it.pid, flush=True)\n"
        "    await it.wait()\n"
        "asyncio.run(run())\n"
    )
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = Path("/proc", process.stdout.readline().strip())
        # setpriv requests the signal before it becomes the program.
        until_sync((child / "cmdline").read_bytes, holds=lambda command: command.startswith(b"sleep"))
        process.kill()
    # The adopting process reaps the orphan with a delay. The program would run for longer than the wait.
    until_sync(lambda: not child.exists(), "the program ends with its sandbox")


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def end_and_start(restarts: Restarts, clock: Clock) -> float:
    """Let the program end and start again as soon as it is due. Return the delay."""
    delay = restarts.ended()
    assert delay is not None
    clock.now += delay
    assert restarts.is_due()
    restarts.started()
    return delay


def test_a_program_starts_after_a_second_and_its_end_is_reported_once(clock: Clock) -> None:
    restarts = Restarts(clock)
    assert restarts.ended() == 1.0
    assert restarts.ended() is None
    clock.now += 0.9
    assert not restarts.is_due()
    clock.now += 0.1
    assert restarts.is_due()
    restarts.started()
    assert restarts.ended() is not None


def test_the_delay_doubles_up_to_a_minute(clock: Clock) -> None:
    restarts = Restarts(clock)
    delays = [end_and_start(restarts, clock) for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, 32, LONGEST_SECONDS, LONGEST_SECONDS]


def test_the_delay_is_short_again_after_a_healthy_minute(clock: Clock) -> None:
    restarts = Restarts(clock)
    for _ in range(4):
        end_and_start(restarts, clock)
    clock.now += HEALTHY_SECONDS
    assert end_and_start(restarts, clock) == 1.0
    clock.now += HEALTHY_SECONDS - 1
    assert not restarts.is_due()
    assert end_and_start(restarts, clock) == 2.0
