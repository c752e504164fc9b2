"""A real NMI whose machine was suspended. The test replaces the clock; no machine is suspended."""

import asyncio
import sys
from pathlib import Path

import pytest

from podidentity_sandbox.serving import free_ports

SECONDS = 60
PROGRAM = """
import sys
import nmi.app
from nmi.cli import main
from podidentity import machine_sleep
clock = iter([0.0, 0.0, 7200.0])
machine_sleep.CHECK_SECONDS = 0.05
nmi.app.MachineSleep = lambda: machine_sleep.MachineSleep(boot=lambda: next(clock, 0.0), monotonic=lambda: 0.0)
sys.exit(main(sys.argv[1:]))
"""
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


@pytest.mark.programs
async def test_nmi_ends_with_a_line_so_that_it_forgets_its_tokens(tmp_path: Path) -> None:
    ports = free_ports(4)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(port=ports[3]))
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, "--node=n", "--redirect=none",
        f"--kubeconfig={kubeconfig}", f"--nmi-port={ports[0]}", f"--http-probe-port={ports[1]}",
        f"--prometheus-port={ports[2]}", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(SECONDS):
        _, errors = await program.communicate()
    assert program.returncode == 1
    assert b"nmi: this machine was suspended for 7200 s" in errors
    assert b"Traceback" not in errors
