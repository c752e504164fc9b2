"""The options by which a command finds its API server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from podidctl.cli import application
from podidctl.commands import completion
from podidctl.commands.completion import ClusterNames
from podidctl.commands.connection import CliContext, ClusterSettings

IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def leaves(command: Any) -> Iterator[Any]:
    """Yield the commands without subcommands."""
    for child in getattr(command, "commands", {}).values():
        yield from leaves(child)
    if not hasattr(command, "commands"):
        yield command


def test_each_command_that_reads_a_cluster_has_all_of_them() -> None:
    own_server = {"up", "demo"}  # of the sandbox: their --kubeconfig replaces the emulator
    commands = [command for command in leaves(get_command(application())) if command.name not in own_server]
    flags = {command.name: {flag for option in command.params for flag in option.opts} for command in commands}
    reading = {name for name, options in flags.items() if "--kubeconfig" in options}
    assert reading == flags.keys() - {"fault"}
    for name in reading:
        assert flags[name] >= {"--context"}, name


@pytest.mark.parametrize(
    ("environ", "context", "is_used"), [({}, "", True), (IN_A_POD, "", False), (IN_A_POD, "c", True)]
)
def test_kubectls_default_file_is_used_in_a_pod_only_for_a_context(
    tmp_path: Path, environ: dict[str, str], context: str, is_used: bool
) -> None:
    file = tmp_path / ".kube" / "config"
    file.parent.mkdir()
    file.touch()
    settings = CliContext(environ, lambda: tmp_path).settings(context)
    assert (settings.kubeconfig, settings.context) == (str(file) if is_used else "", context)


def test_names_are_completed_from_the_selected_context(monkeypatch: pytest.MonkeyPatch) -> None:
    async def list_keys(settings: ClusterSettings, *_: object) -> list[tuple[str, str]]:
        return [("", f"{settings.kubeconfig}-{settings.context}")]

    monkeypatch.setattr(completion, "_list_keys", list_keys)
    line = typer.Context(get_command(application()))
    line.params |= {"kubeconfig": "file", "kube_context": "there"}
    assert ClusterNames(CliContext({}, Path)).nodes(line, "") == ["file-there"]
