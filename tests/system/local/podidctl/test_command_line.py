"""The command line: its modules, its errors of one line, and its end by Ctrl-C."""

import asyncio
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Never

import pytest
import typer

from podidctl.cli import COMMANDS, main, needed
from podidctl.commands.connection import home_directory, parse_pod_name
from tests.support.mic.emulated_cloud import EmulatedCloud


@pytest.mark.parametrize("name", ["", "/", "a/", "/b", "a/b/c", "../secrets", "A/b", "a b", "b?x=1", "b\n", "\x1b[31m"])
def test_a_pod_is_named_with_its_namespace_as_prefix_or_flag(name: str) -> None:
    assert parse_pod_name("a/b.c-1", "", "usual") == ("a", "b.c-1")
    assert parse_pod_name("b", "a", "usual") == ("a", "b")
    assert parse_pod_name("b", "", "usual") == ("usual", "b")
    with pytest.raises(typer.BadParameter, match="is not a namespace name"):
        parse_pod_name("b", "../a", "usual")
    with pytest.raises(typer.BadParameter, match="is not a pod name") as caught:
        parse_pod_name(name, "", "usual")
    assert str(caught.value).isprintable(), "it cannot control the terminal"


USED = {"token": {COMMANDS["explain"]}}
"""The modules of other commands that a command uses."""
LIST_MODULES = "import sys; from podidctl.cli import main; main(sys.argv[1:]); print(*sorted(sys.modules))"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["explain", "pod", "web"], ["explain"]),
        (["plan"], ["plan"]),
        (["plan", "explain"], ["plan"]),
        ([], list(COMMANDS)),
        (["--help"], list(COMMANDS)),
        (["--help", "plan"], list(COMMANDS)),
        (["explan"], list(COMMANDS)),
    ],
    ids=" ".join,
)
def test_the_first_word_selects_the_command(words: list[str], names: list[str]) -> None:
    assert list(needed(words)) == names


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_module_of_another_one(name: str) -> None:
    command = [sys.executable, "-c", LIST_MODULES, name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    help_text, modules = done.stdout.strip().rsplit("\n", 1)
    assert f"podidctl {name}" in help_text
    assert set(modules.split()) & set(COMMANDS.values()) == {COMMANDS[name]} | USED.get(name, set())


def test_the_home_directory_is_used_or_without_one_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: object) -> Never:
        raise KeyError

    monkeypatch.setenv("HOME", "/home/operator")
    assert home_directory() == Path("/home/operator")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert home_directory() == Path("/")


@pytest.mark.parametrize(
    ("pod", "error"),
    [
        ("absent", "pod default/absent does not exist; list the pods with kubectl get pods"),
        ("web", "pod default/web has no network namespace on this machine"),
    ],
)
async def test_the_error_states_why_the_command_cannot_run(
    pod: str, error: str, cloud: EmulatedCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.node("n0")
    cloud.pod("web", "n0")
    monkeypatch.setenv("KUBECONFIG", str(Path(cloud.folder) / "kubeconfig"))
    assert await asyncio.to_thread(main, ["sandbox", "exec", pod, "--", "true"]) == 1
    assert error in capsys.readouterr().err
