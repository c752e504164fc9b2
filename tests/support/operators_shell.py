"""The shell of an operator, and the cluster of `make cluster` with a node of the sandbox."""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from podidentity_sandbox.namespaces import NAMESPACES
from tests.support.checkout import ROOT
from tests.support.waiting import until_sync

COMMAND_SECONDS: Final = 90
LOCK: Final = ROOT / "build" / "cluster.lock"
_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def blocks_of(text: str, language: str = "") -> list[str]:
    """Return the content of the blocks of a page that have this *language*. Commands have none."""
    return [block for block_language, block in _BLOCK.findall(text) if block_language == language]


def commands_of(block: str) -> list[str]:
    """Return the commands of a block of a page; a wrapped command is one."""
    return re.sub(r" \\\n\s*", " ", block).splitlines()


class Terminal:
    """A shell that keeps exported variables. Its working directory is *folder*."""

    def __init__(self, folder: Path = ROOT) -> None:
        self._folder = folder
        self._exports: list[str] = []

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run *command*. An export fails if a command in it fails, and is evaluated once."""
        if command.startswith("export "):
            names = " ".join(re.findall(r"(\w+)=", re.sub(r"\$\(.*?\)|'[^']*'", "", command)))
            done = self._run(f"{command.removeprefix('export ')} || exit\nexport {names}\ndeclare -p {names}")
            if done.returncode == 0:
                self._exports.append(done.stdout)
            return done
        return self._run(command)

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        line = "\n".join([*self._exports, command])
        return subprocess.run(
            ["bash", "-c", line], cwd=self._folder, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )

    def all(self, commands: Sequence[str]) -> dict[str, str]:
        """What each of the commands printed, by its first words; all must succeed."""
        printed: dict[str, str] = {}
        for command in commands:
            done = self.type(command)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            printed[" ".join(command.split()[:2])] = done.stdout
        return printed


@contextlib.contextmanager
def sandbox_cluster(folder: Path) -> Iterator[None]:
    """Run the processes of `make cluster` with a node of the sandbox. Ctrl-C must remove all of them and their files.

    The log is in *folder*. A checkout has one cluster, in build/cluster: wait until other test processes need none.
    """
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _sandbox_cluster(folder / "cluster.log"):
            yield


@contextlib.contextmanager
def _sandbox_cluster(log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.cluster", "--node=sandbox"], cwd=ROOT, stdout=output, stderr=output
        )

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        return "The sandbox is up" in log.read_text()

    until_sync(is_up, log.read_text)
    assert list(NAMESPACES.glob(f"podid-{process.pid}-*"))
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()
    assert not list(NAMESPACES.glob(f"podid-{process.pid}-*"))
