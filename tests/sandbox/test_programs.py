"""Processes of the sandbox: start, output, stop, kill. None outlives the sandbox."""

import signal
import subprocess
import sys
from pathlib import Path

from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.processes import Program
from tests.support.waiting import until, until_sync

HERE = ExecutionContext("127.0.0.1", environment={"PLACE": "here"})


async def start(tmp_path: Path, code: str) -> Program:
    argv = [sys.executable, "-u", "-c", code]
    return await Program.start("it", argv, context=HERE, log=tmp_path / "log", environment={"A": "b"})


async def heard(program: Program, word: str) -> None:
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
    await heard(program, "up")
    assert await program.stop() == 7
    assert await program.stop() == 7


async def test_a_program_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    program = await start(
        tmp_path, "import signal; signal.signal(15, signal.SIG_IGN); print('up')\nwhile 1: signal.pause()"
    )
    await heard(program, "up")
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
