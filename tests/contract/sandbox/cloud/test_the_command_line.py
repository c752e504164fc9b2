"""Errors of podidctl for a wrong command line and a sandbox that cannot start: one line and an exit code."""

from pathlib import Path

import pytest

from podidctl.cli import main
from podidentity.version import VERSION


@pytest.mark.parametrize(
    ("argv", "text"),
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
        (["sandbox", "up", "--chart-values", "v.yaml", "--kubeconfig", __file__, "--federated"], "--federated"),
        (["sandbox", "up", "--federated", "--identity-bindings"], "--federated excludes --identity-bindings"),
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
        "no-kinds-of-federated",
        "two-forms-of-trust",
        "no-name",
        "flag",
        "no-such-file",
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("podidctl: ")
    assert text in line


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"podidctl {VERSION}\n"


def test_an_unreachable_api_server_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "clusters: [{name: a, cluster: {server: 'https://127.0.0.1:9'}}]\n"
        "users: [{name: a, user: {token: t}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n"
    )
    assert main(["sandbox", "demo", "--json", "--loopback", f"--kubeconfig={kubeconfig}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot reach https://127.0.0.1:9" in line
