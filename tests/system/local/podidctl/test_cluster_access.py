"""The API server of a command and its credentials."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from podidctl.commands.connection import CliContext, connect
from podidctl.facts.model import Facts
from podidctl.reading.reader import CLUSTER, read
from podidctl.report.text import print_error
from podidentity.kube import access
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.preview.run_programs import CommandResult, run


def several_contexts(cloud: EmulatedCloud, current: str) -> dict[str, Any]:
    """Return a kubeconfig with two clusters, two users and three contexts: `here`, and two that do not work."""
    own: dict[str, Any] = yaml.safe_load((cloud.folder / "kubeconfig").read_text())
    contexts = {"here": ("own", "own"), "stranger": ("own", "stranger"), "elsewhere": ("elsewhere", "own")}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current,
        "clusters": [
            {"name": "elsewhere", "cluster": {"server": "https://127.0.0.1:1"}},
            {"name": "own", "cluster": own["clusters"][0]["cluster"]},
        ],
        "users": [
            {"name": "stranger", "user": {"token": "of-a-stranger"}},
            {"name": "own", "user": own["users"][0]["user"]},
        ],
        "contexts": [
            {"name": name, "context": {"cluster": cluster, "user": user}} for name, (cluster, user) in contexts.items()
        ],
    }


async def doctor(cloud: EmulatedCloud, kubeconfig: str, *flags: str) -> CommandResult:
    command = ("podidctl", "doctor", "-o", "json", *flags)
    return await run(cloud.folder, *command, kubeconfig=False, cloudconfig=False, KUBECONFIG=kubeconfig)


@pytest.mark.parametrize(
    ("current", "text"),
    [
        ("here", ""),
        ("stranger", "the API server rejects the credentials (401"),
        ("elsewhere", "127.0.0.1:1"),
    ],
)
async def test_the_current_context_selects_cluster_and_user(cloud: EmulatedCloud, current: str, text: str) -> None:
    file = cloud.folder / "several"
    file.write_text(json.dumps(several_contexts(cloud, current)))
    answer = await doctor(cloud, str(file))
    assert answer.code == (1 if text else 3), answer.err
    assert text in answer.err
    assert answer.err.count("\n") == bool(text)
    assert bool(answer.out) != bool(text)


@pytest.mark.parametrize(
    ("context", "text"), [("here", ""), ("nowhere", "has no context nowhere: pass one of elsewhere, here, stranger to")]
)
async def test_a_flag_selects_another_context(cloud: EmulatedCloud, context: str, text: str) -> None:
    file = cloud.folder / "several"
    file.write_text(json.dumps(several_contexts(cloud, "elsewhere")))
    answer = await doctor(cloud, str(file), f"--context={context}")
    assert answer.code == (1 if text else 3), answer.err
    assert text in answer.err
    assert answer.err.count("\n") == bool(text)


async def test_several_files_are_one_configuration(cloud: EmulatedCloud) -> None:
    whole = several_contexts(cloud, "here")
    files = [cloud.folder / "users", cloud.folder / "others"]
    for file, kept in zip(files, (("users",), ("clusters", "contexts", "current-context")), strict=True):
        file.write_text(json.dumps({key: whole[key] for key in ("apiVersion", "kind", *kept)}))
    answer = await doctor(cloud, ":".join(map(str, files)))
    assert (answer.code, answer.err) == (3, "")


async def test_a_pods_service_account_is_used_in_a_pod_and_no_file_of_the_home_directory(
    cloud: EmulatedCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_access = await access.find(str(cloud.folder / "kubeconfig"), {})
    server, authorization = urlsplit(api_access.server), await api_access.authorization()
    assert authorization is not None
    root = tmp_path / "serviceaccount"
    root.mkdir()
    (root / "token").write_text(authorization.removeprefix("Bearer "))
    (root / "namespace").write_text("identity")
    (root / "ca.crt").write_text((cloud.folder / "ca.pem").read_text())
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(json.dumps(several_contexts(cloud, "elsewhere")))
    monkeypatch.setattr(access, "SERVICE_ACCOUNT_ROOT", root)
    environ = {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}
    # In a thread: the parser of the flags looks for translations.
    settings = await asyncio.to_thread(CliContext(environ, lambda: tmp_path).settings, kubeconfig="")
    async with connect(settings) as client:
        assert isinstance(client.access.ssl, ssl.SSLContext)
        assert (await read(client, Facts(), CLUSTER)).unread == {}


def test_an_error_cannot_control_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_error("cannot reach \x1b[2J\x07\n\u202ex: check it") == 1
    assert capsys.readouterr().err == "podidctl: cannot reach ?[2J? ?x: check it\n"
