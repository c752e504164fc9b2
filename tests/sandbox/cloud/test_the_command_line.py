"""Errors of podidctl for a wrong command line and a sandbox that cannot start: one line and an exit code."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from podidctl.cli import main
from podidentity.version import VERSION


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nonsense"], "No such command"),
        (["sandbox", "up", "--nodes", "many"], "--nodes"),
        (["sandbox", "up", "--nodes", "0"], "--nodes"),
        (["sandbox", "up", "--chart-values", "values.yaml"], "--kubeconfig"),
        (["sandbox", "up", "--identity", "Blue"], "NAME=SELECTOR"),
        (["sandbox", "up", "--identity", "blue", "--identity", "blue"], "named twice"),
        (["sandbox", "up", "--service-principal", "robot="], "NAME=SELECTOR"),
        (["sandbox", "up", "--system-assigned=no"], "--system-assigned"),
        (["sandbox", "up", "--chart-values", "v.yaml", "--kubeconfig", __file__, "--identity", "blue"], "--identity"),
        (["sandbox", "exec", "a/b/c", "--", "true"], "NAMESPACE/NAME"),
        (["sandbox", "demo", "--nope"], "--nope"),
        (["sandbox", "demo", "--kubeconfig", "/nowhere/at/all"], "--kubeconfig"),
    ],
    ids=[
        "command",
        "not-a-number",
        "too-few",
        "no-server",
        "no-identity",
        "twice",
        "no-principal",
        "no-value",
        "no-kinds",
        "no-name",
        "flag",
        "no-such-file",
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("podidctl: ")
    assert says in line


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"podidctl {VERSION}\n"


@pytest.mark.programs
def test_an_unreachable_api_server_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "clusters: [{name: a, cluster: {server: 'https://127.0.0.1:9'}}]\n"
        "users: [{name: a, user: {token: t}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n"
    )
    command = [
        sys.executable,
        "-m",
        "podidctl",
        "sandbox",
        "demo",
        "--json",
        "--loopback",
        f"--kubeconfig={kubeconfig}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot reach https://127.0.0.1:9" in line


@pytest.mark.programs
def test_a_running_sandbox_prints_how_to_use_it_and_ends_by_ctrl_c() -> None:
    command = [sys.executable, "-m", "podidctl", "sandbox", "up", "--loopback"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "try:" in line:
                break
        exported = next(line for line in lines if "export KUBECONFIG=" in line)
        kubeconfig = Path(exported.partition("=")[2].strip())
        assert kubeconfig.exists()
        assert not kubeconfig.stat().st_mode & 0o077
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, lines
    assert not kubeconfig.exists()
