"""The options by which a command finds its API server."""

import asyncio
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from podidctl.cli import application, main
from podidctl.commands import completion, connection
from podidctl.commands.completion import ClusterNames
from podidctl.commands.connection import CliContext, ClusterSettings, connect
from podidentity.exits import StartError
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, NoResponse, TimedOut
from podidentity.kube.transport import CONNECT_SECONDS
from podidentity.resources import PODS
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.memory_api import MemoryApi

IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the commands without subcommands, by their words."""
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, f"{path} {name}".lstrip())
    if not hasattr(command, "commands"):
        yield path, command


def test_each_command_that_reads_a_cluster_has_all_of_them() -> None:
    own_server = {"sandbox up", "sandbox demo"}  # their --kubeconfig replaces the emulator
    commands = {path: command for path, command in leaves(get_command(application())) if path not in own_server}
    flags = {path: {flag for option in command.params for flag in option.opts} for path, command in commands.items()}
    reading = {path for path, options in flags.items() if "--kubeconfig" in options}
    assert flags.keys() - reading == {"sandbox fault"}
    for name in reading:
        assert flags[name] >= {"--context", "--request-timeout"}, name


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("0", math.inf), ("0s", math.inf)]
)
def test_the_time_limit_has_kubectls_syntax(text: str, seconds: float) -> None:
    assert CliContext({}, Path).settings("", text).request_seconds == seconds


def test_an_address_is_unreachable_before_a_request_takes_too_long() -> None:
    assert CliContext({}, Path).settings().request_seconds > CONNECT_SECONDS


@pytest.mark.parametrize("text", ["", "ten", "1.5", "-1s", "-1", "\u0661"])
def test_another_time_limit_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", f"--request-timeout={text}"]) == 2
    assert "--request-timeout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (19, "the API server lacks a kind"),
        (21, "no response from http://kubernetes within 20 s: wait longer with --request-timeout=1m, or check"),
    ],
)
async def test_a_request_ends_after_the_time_limit_with_the_flag_as_the_next_action(
    monkeypatch: pytest.MonkeyPatch, seconds: float, message: str
) -> None:
    api = MemoryApi()

    async def find(*_: object) -> ClusterAccess:
        return api.access()

    async def respond(*_: object) -> None:
        await asyncio.sleep(seconds)
        raise StatusError(404, "NotFound", "nothing")

    monkeypatch.setattr(api, "_route", respond)
    monkeypatch.setattr("podidctl.commands.connection.access.find", find)
    monkeypatch.setattr(connection, "Client", partial(Client, open_session=api.network.open_aiohttp_session))
    with pytest.raises(StartError, match=message):
        async with connect(ClusterSettings(namespace="default", request_seconds=20)) as client:
            await client.list(PODS)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AccessError("no token: sign in"), "no token: sign in"),
        (NoResponse("nothing"), "nothing: check --kubeconfig"),
        (TimedOut("here", 0.0001), "within 0.0001 s: wait longer with --request-timeout=1ms, or check"),
    ],
)
async def test_an_error_of_concurrent_requests_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    async def find(*_: object) -> ClusterAccess:
        return MemoryApi().access()

    monkeypatch.setattr("podidctl.commands.connection.access.find", find)
    settings = ClusterSettings(namespace="default", request_seconds=20)
    for inner in (error, ExceptionGroup("", [error]), ExceptionGroup("", [StartError(message), error])):
        with pytest.raises(StartError, match=message):
            async with connect(settings):
                raise inner
    with pytest.raises(ExceptionGroup):
        async with connect(settings):
            raise ExceptionGroup("", [error, ZeroDivisionError()])


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


def test_a_home_directory_that_may_not_be_searched_has_no_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_file(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", is_file)
    assert CliContext({}, Path).settings().kubeconfig == ""


def test_only_valid_names_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["web", "a\nb", "c\td", "\n:2", "$(id)", "*", "\x1b[2J", "`id`", ""]

    async def list_keys(*_: object) -> list[tuple[str, str]]:
        return [*(("default", name) for name in names), *((name, "db") for name in names)]

    monkeypatch.setattr(completion, "_list_keys", list_keys)
    cluster = ClusterNames(CliContext({}, Path))
    line = typer.Context(get_command(application()))
    assert cluster.pods(line, "") == ["default/web", "web/db"]
    line.params["namespace"] = "default"
    assert cluster.pods(line, "w") == ["web"]


@pytest.mark.parametrize("error", [ValueError("x"), UnicodeDecodeError("utf-8", b"x", 0, 1, "y"), RecursionError()])
def test_no_failure_of_completion_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    async def list_keys(*_: object) -> list[tuple[str, str]]:
        sys.stderr.write("credentials could not be read again")
        raise error

    monkeypatch.setattr(completion, "_list_keys", list_keys)
    assert ClusterNames(CliContext({}, Path)).nodes(typer.Context(get_command(application())), "") == []
    assert capsys.readouterr() == ("", "")


def test_names_are_completed_from_the_selected_context(monkeypatch: pytest.MonkeyPatch) -> None:
    async def list_keys(settings: ClusterSettings, *_: object) -> list[tuple[str, str]]:
        return [("", f"{settings.kubeconfig}-{settings.context}")]

    monkeypatch.setattr(completion, "_list_keys", list_keys)
    line = typer.Context(get_command(application()))
    line.params |= {"kubeconfig": "file", "kube_context": "there"}
    assert ClusterNames(CliContext({}, Path)).nodes(line, "") == ["file-there"]
