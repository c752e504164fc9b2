"""Errors at MIC's start: one line with the next action and an exit code, without a traceback."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mic import cli
from tests.mic.emulated_cloud import ROOT, WAIT_SECONDS

SECRET = {"tenantId": "t", "aadClientId": "c", "aadClientSecret": "hush"}
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
    "users": [{"name": "u", "user": {"token": "hush"}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "x",
}


async def started(*flags: str) -> tuple[int, str]:
    """Exit code and standard error, without the log."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mic",
        *flags,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "MIC_POD_NAMESPACE": "x"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_SECONDS):
        _, output = await process.communicate()
    assert process.returncode is not None
    lines = [line for line in output.decode().splitlines() if not line[1:5].isdigit()]
    assert len(lines) == 1, output.decode()
    assert "hush" not in output.decode()
    return process.returncode, lines[0]


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--nonsense"], {"MIC_POD_NAMESPACE": "x"}, "unknown flag --nonsense"),
        ([], {}, "MIC_POD_NAMESPACE is not set"),
        (["--clientQps=fast"], {"MIC_POD_NAMESPACE": "x"}, "clientQps"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    argv: list[str],
    environ: Mapping[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MIC_POD_NAMESPACE", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert cli.main(argv) == 2
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1


def test_the_version_is_printed_without_any_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mic ")


@pytest.mark.programs
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--kubeconfig={folder}/kubeconfig"], ["TENANT_ID, CLIENT_ID, CLIENT_SECRET"]),
        (["--kubeconfig=/nowhere", "--cloudconfig={folder}/azure.json"], ["/nowhere"]),
        (
            ["--kubeconfig={folder}/kubeconfig", "--cloudconfig={folder}/azure.json", "--http-probe-port={port}"],
            ["{port}", "--http-probe-port"],
        ),
    ],
    ids=["no credentials", "no kubeconfig", "a port in use"],
)
async def test_what_is_missing_or_in_use_is_named(tmp_path: Path, flags: list[str], parts: list[str]) -> None:
    (tmp_path / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    (tmp_path / "azure.json").write_text(json.dumps(SECRET))
    with socket.create_server(("0.0.0.0", 0)) as taken:
        values = {"folder": str(tmp_path), "port": taken.getsockname()[1]}
        code, output = await started(*(flag.format(**values) for flag in flags))
    assert code == 1
    assert all(part.format(**values) in output for part in parts)
