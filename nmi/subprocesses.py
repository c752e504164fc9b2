"""Execution of the node's own programs (iptables, conntrack), with a time limit and without leftover processes."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

import msgspec

from podidentity.exits import StartError

SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
"""The directories of the programs: an unprivileged user's own PATH often lacks the sbin directories."""

SHOWN_MAX = 300
"""Characters of a program's error output that an error repeats."""


class Finished(msgspec.Struct, frozen=True):
    """The result of a program."""

    code: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """Its error output in one line, truncated."""
        return " ".join(self.stderr.split())[:SHOWN_MAX] or f"exit code {self.code}"

    @property
    def not_permitted(self) -> bool:
        """Whether it failed because permissions are missing."""
        return self.code != 0 and any(word in self.stderr for word in ("Permission denied", "Operation not permitted"))


class ProgramTimeoutError(Exception):
    """A program did not end in time and was killed."""


async def find_program(name: str, *, path: str = SYSTEM_PATH) -> str | None:
    """Return the path of *name* in *path*; None if it is not installed."""
    return await asyncio.to_thread(shutil.which, name, path=path)


def _readable(given: str) -> BinaryIO:
    """Return *given* as a file in memory. A pipe would break if a program ends without reading it.

    Blocks only for the time of a copy. A watchdog of the event loop would report that too.
    """
    file = os.fdopen(os.memfd_create("stdin"), "w+b")
    file.write(given.encode())
    file.seek(0)
    return file


async def run(words: Sequence[str], *, given: str = "", seconds: float = 30.0) -> Finished:
    """Run *words* to the end with *given* on its standard input.

    Raises ProgramTimeoutError after *seconds*, StartError if the program is not installed. On cancellation it kills the
    program.
    """
    try:
        with await asyncio.to_thread(_readable, given) as stdin:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
    except (FileNotFoundError, PermissionError) as error:
        raise _not_started(words, error) from error
    try:
        async with asyncio.timeout(seconds):
            stdout, stderr = await process.communicate()
    except TimeoutError as error:
        raise ProgramTimeoutError(f"{words[0]} did not end within {seconds:g} s") from error
    finally:
        await _end(process)
    return Finished(process.returncode or 0, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


async def first_bytes(words: Sequence[str], most: int, *, seconds: float = 30.0) -> bytes:
    """Return the first *most* bytes of the standard output of *words*; a program with more output is killed.

    Raises ProgramTimeoutError after *seconds*, StartError if the program is not installed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=most,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise _not_started(words, error) from error
    assert process.stdout is not None  # noqa: S101  it is a pipe
    try:
        async with asyncio.timeout(seconds):
            try:
                return await process.stdout.readexactly(most)
            except asyncio.IncompleteReadError as error:
                await process.wait()
                return error.partial
    except TimeoutError as error:
        raise ProgramTimeoutError(f"{words[0]} did not end within {seconds:g} s") from error
    finally:
        await _end(process)


def _not_started(words: Sequence[str], error: OSError) -> StartError:
    return StartError(f"{words[0]} cannot be run ({error.strerror}): install it in NMI's image")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill *process* unless it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
