"""Runs of the real programs that print the plan, in the sandbox."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import WAIT_SECONDS


@dataclass(frozen=True)
class Answer:
    """Exit code and output of a program."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


async def run_with_closed_stdout(folder: Path, *command: str) -> Answer:
    """Run the program with a closed pipe as its output."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return await run(folder, *command, stdout=writing)
    finally:
        os.close(writing)


async def run(
    folder: Path,
    *command: str,
    kubeconfig: bool = True,
    cloudconfig: bool = True,
    stdout: int = asyncio.subprocess.PIPE,
    **environ: str,
) -> Answer:
    """`python -m` *command* with the files of the emulators in *folder*, without MIC_POD_NAMESPACE."""
    files = [f"--kubeconfig={folder / 'kubeconfig'}"] if kubeconfig else []
    files += [f"--cloudconfig={folder / 'azure.json'}"] if cloudconfig else []
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *command,
        *files,
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
    async with asyncio.timeout(2 * WAIT_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in err.decode(), err.decode()
    return Answer(process.returncode, (out or b"").decode(), err.decode())
