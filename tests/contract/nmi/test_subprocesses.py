"""Programs of the node as child processes. Excluded: which programs, and what for."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from nmi.subprocesses import ProgramTimeoutError, find_program, run
from podidentity.exits import StartError


async def test_input_output_and_exit_code_are_passed_on() -> None:
    done = await run(("sh", "-c", "cat; echo told >&2; exit 3"), given="given\n")
    assert (done.code, done.stdout, done.stderr) == (3, "given\n", "told\n")
    assert done.complaint == "told"


async def test_input_and_output_larger_than_a_pipe_do_not_deadlock() -> None:
    given = "x" * 1_000_000
    assert (await run(("cat",), given=given)).stdout == given


async def test_unread_input_is_accepted() -> None:
    assert (await run(("true",), given="x" * 1_000_000)).code == 0


async def test_a_program_that_does_not_end_is_killed_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[asyncio.subprocess.Process] = []
    create = asyncio.create_subprocess_exec

    async def recorded(*words: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await create(*words, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recorded)
    with pytest.raises(ProgramTimeoutError, match=r"did not end within 0\.2 s"):
        await run(("sleep", "60"), seconds=0.2)
    (process,) = started
    assert process.returncode == -signal.SIGKILL
    assert gone(process.pid)


async def test_a_cancelled_caller_ends_the_program(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    running = asyncio.create_task(run(stays(tmp_path)))
    async with asyncio.timeout(60):
        await asyncio.to_thread((tmp_path / "started").read_text)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(int((tmp_path / "pid").read_text()))


async def test_a_missing_program_is_reported_with_the_next_action() -> None:
    with pytest.raises(StartError, match="/nowhere/iptables cannot be run"):
        await run(("/nowhere/iptables",))


async def test_missing_permission_is_recognised() -> None:
    assert (await run(("sh", "-c", "echo 'x: Permission denied (you must be root)' >&2; exit 4"))).not_permitted
    assert not (await run(("sh", "-c", "echo 'Permission denied' >&2; exit 0"))).not_permitted


async def test_a_long_error_output_is_truncated_to_one_line() -> None:
    done = await run(("sh", "-c", "yes complaint | head -1000 >&2; exit 1"))
    assert len(done.complaint) <= 300
    assert "\n" not in done.complaint


async def test_a_failure_without_output_has_an_error_message_too() -> None:
    assert (await run(("false",))).complaint == "exit code 1"


async def test_programs_are_found_in_the_given_path_only(tmp_path: Path) -> None:
    assert await find_program("sh") is not None
    assert await find_program("sh", path=str(tmp_path)) is None


def stays(directory: Path) -> tuple[str, ...]:
    """Return a program that prints its process id and does not end."""
    return ("sh", "-c", f"echo $$ > {directory}/pid; echo > {directory}/started; exec sleep 60")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
