"""The sandbox after a suspension of its machine. The test changes the boot clock of its programs."""

import os
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.support.waiting import until

pytestmark = pytest.mark.programs
SITECUSTOMIZE = """
import time

_real = time.clock_gettime


def clock_gettime(clock):
    if clock != time.CLOCK_BOOTTIME:
        return _real(clock)
    with open({slept!r}) as seconds:
        return _real(clock) + float(seconds.read())


time.clock_gettime = clock_gettime
"""
"""Python imports this module at the start of each program of the sandbox."""


async def test_nmi_ends_and_starts_again_with_a_line_and_mic_continues(tmp_path: Path) -> None:
    slept = tmp_path / "slept"
    slept.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE.format(slept=str(slept)))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    async with Sandbox(Settings(namespaces=False, environment={**os.environ, "PYTHONPATH": path})) as sandbox:
        assert sandbox.mic is not None
        mic, nmi = sandbox.mic.pid, sandbox.nmis["node-0"].program.pid
        assert await sandbox.restart_ended() == []
        (tmp_path / "later").write_text("86400")
        (tmp_path / "later").replace(slept)
        lines: list[str] = []

        async def reported() -> list[str]:
            lines.extend(await sandbox.restart_ended())
            return lines

        await until(reported, "NMI runs again", holds=lambda found: any("runs again" in line for line in found))
        assert lines[0].startswith("nmi on node-0 ended with code 1: ")
        assert "this machine was suspended for 86400 s" in lines[0]
        assert lines[0].endswith("; it starts again in 1 s")
        assert sandbox.nmis["node-0"].program.pid != nmi
        assert sandbox.mic.pid == mic
        await sandbox.nmi_active("node-0")
