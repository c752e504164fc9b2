"""`podidctl sandbox up` in one terminal, and the commands in another one."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.waiting import until_sync

PODIDCTL = [sys.executable, "-m", "podidctl"]
SECONDS = 60.0
CURL = re.compile(r"^ *(curl --interface .*)$", re.MULTILINE)
"""The request that the sandbox prints for a pod."""
Kubectl = Callable[..., tuple[int, str]]
"""A function of an environment and the arguments of kubectl: returns the exit code and the output."""


@contextmanager
def sandbox_up(log: Path, *flags: str) -> Iterator[dict[str, str]]:
    """Run a sandbox with its output in *log*. Yield the environment of a shell into which the output was copied.

    At the end type Ctrl-C, and test that the sandbox ends with exit code 0.
    """
    base = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*PODIDCTL, "sandbox", "up", "--loopback", "--operation-seconds=0.2", *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=base,
            cwd=ROOT,
            process_group=0,
        )
    try:
        until_sync(lambda: "kubectl apply -f" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        lines = [line.strip() for line in log.read_text().splitlines()]
        exports = [shlex.split(line)[1] for line in lines if line.startswith("export ")]
        yield {**base, **dict(export.split("=", 1) for export in exports)}
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(SECONDS)
    assert code == 0, log.read_text()


def run(environment: Mapping[str, str], *command: str) -> tuple[int, str]:
    """The exit code and the output, with that of standard error."""
    done = subprocess.run(
        command,
        env=environment,
        cwd=ROOT,
        text=True,
        timeout=60,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def podidctl(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    return run(environment, *PODIDCTL, *arguments)
