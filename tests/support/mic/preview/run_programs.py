"""Runs of the real programs in the sandbox."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.checkout import ROOT
from tests.support.waiting import LIMIT_SECONDS


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a program."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


async def run(
    folder: Path,
    *command: str,
    kubeconfig: bool = True,
    cloudconfig: bool = True,
    inside: Sequence[str] = (),
    stdout: int = asyncio.subprocess.PIPE,
    started: Callable[[asyncio.subprocess.Process], None] | None = None,
    **environ: str,
) -> CommandResult:
    """`python -m` *command* with the files of the emulators in *folder*, without MIC_POD_NAMESPACE.

    *inside* is a command that runs it. *started* is called with the process.
    """
    files = [f"--kubeconfig={folder / 'kubeconfig'}"] if kubeconfig else []
    files += [f"--cloudconfig={folder / 'azure.json'}"] if cloudconfig else []
    process = await asyncio.create_subprocess_exec(
        *(*inside, sys.executable, "-m", *command, *files),
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "AZURE_ENVIRONMENT_FILEPATH": str(folder / "cloud.json"),
            "SSL_CERT_FILE": str(folder / "ca.pem"),
            "COLUMNS": "200",
            **environ,
        },
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    if started is not None:
        started(process)
    async with asyncio.timeout(2 * LIMIT_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in err.decode(), err.decode()
    return CommandResult(process.returncode, (out or b"").decode(), err.decode())
