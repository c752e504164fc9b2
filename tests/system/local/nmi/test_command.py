"""The command `nmi` as a process, until its start or after it ends. Excluded: serving.

API server, rights and iptables are tried where they are (tests/system/local/nmi/node/test_start_without_api_server.py).
"""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nmi.settings import FORMER_FLAGS
from podidentity_sandbox.serving import free_ports
from tests.support.checkout import ROOT
from tests.support.waiting import LIMIT_SECONDS

SUSPENDED = """
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


def nmi(*args: str, program: tuple[str, ...] = ("-m", "nmi")) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, *program, *args)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)


@pytest.mark.programs
def test_python_m_nmi_returns_the_exit_code() -> None:
    done = nmi("--nod=a")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_missing_extension_module_is_one_line_and_exit_code_1() -> None:
    code = "import sys; sys.modules['_native.index'] = None; from nmi.cli import main; sys.exit(main())"
    done = nmi("--node=a", program=("-c", code))
    assert done.returncode == 1
    assert done.stderr.startswith("nmi: the compiled module _native.index is missing, and NMI has no slower")
    assert done.stderr.count("\n") == 1


@pytest.mark.programs
def test_a_former_flag_is_logged_with_the_constant_and_a_port_in_use_ends_the_start() -> None:
    port, probe_port = free_ports(2)
    with socket.create_server(("", port)):
        ports = (f"--prometheus-port={port}", f"--http-probe-port={probe_port}")
        done = nmi("--node=a", "--redirect=none", *ports, "--idle-timeout=5m", "--max-connections", "9")
    assert [line.partition("] ")[2] for line in done.stderr.splitlines() if line.startswith("W")] == [
        f'a flag has no effect any more; remove it reason="--{flag}: {FORMER_FLAGS[flag]}"'
        for flag in ("max-connections", "idle-timeout")
    ]
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"nmi: :{port} is in use: choose another with --prometheus-port"


def test_version_and_usage_do_not_import_the_server() -> None:
    code = (
        "import sys; from nmi.cli import main; main(['--version']); main(['--x']); "
        "print([name for name in ('aiohttp', 'uvloop', 'nmi.app', 'iptc', 'kubernetes') if name in sys.modules])"
    )
    assert nmi(program=("-c", code)).stdout.splitlines()[-1] == "[]"


@pytest.mark.programs
def test_after_a_sleep_of_the_machine_nmi_ends_with_a_line_so_that_it_forgets_its_tokens(tmp_path: Path) -> None:
    """The program replaces the clock; no machine is suspended."""
    requests, probes, metrics, api = free_ports(4)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG.format(port=api))
    ports = (f"--nmi-port={requests}", f"--http-probe-port={probes}", f"--prometheus-port={metrics}")
    kubeconfig = f"--kubeconfig={tmp_path / 'kubeconfig'}"
    done = nmi("--node=n", "--redirect=none", kubeconfig, *ports, program=("-c", SUSPENDED))
    assert done.returncode == 1
    assert "nmi: this machine was suspended for 7200 s" in done.stderr
    assert "Traceback" not in done.stderr
