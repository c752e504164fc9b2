"""MIC's start: errors are one line with the next action, and without an API server it waits and reports why."""

import asyncio
import json
import os
import socket
import sys
import urllib.error
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from mic import cli
from podidentity_sandbox.faults import FaultProxy, Mode
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import WAIT_SECONDS, EmulatedCloud, Mic
from tests.support.waiting import until

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


@pytest.fixture
async def proxy(cloud: EmulatedCloud) -> AsyncIterator[FaultProxy]:
    between = FaultProxy("127.0.0.1", cloud.api.port)
    await between.start()
    path = cloud.folder / "kubeconfig"
    path.write_text(path.read_text().replace(f":{cloud.api.port}", f":{between.port}"))
    yield between
    for mic in cloud.running:
        if mic.process.returncode is None:
            mic.process.kill()
            await mic.process.wait()
    cloud.running.clear()
    await between.stop()


async def not_ready(mic: Mic, expected: str) -> str:
    """Return the text of /readyz as soon as it contains *expected*."""

    async def page() -> str:
        assert mic.process.returncode is None, mic.read_log()
        try:
            return await mic.page("/readyz")
        except urllib.error.HTTPError as error:
            return error.read().decode()

    return await until(page, mic.read_log, holds=lambda text: expected in text, ignoring=OSError)


def complaints(mic: Mic) -> list[str]:
    return [line for line in mic.read_log().splitlines() if line[:1] in {"W", "E"}]


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG, Mode.SILENT, Mode.RESET])
async def test_mic_waits_logs_the_cause_and_becomes_active(cloud: EmulatedCloud, proxy: FaultProxy, mode: Mode) -> None:
    await proxy.set_mode(mode)
    mic = await cloud.mic(active=False)
    assert f"127.0.0.1:{proxy.port}" in await not_ready(mic, "check that the API server runs")
    assert await mic.page("/healthz") == "Not Active", "the kubelet's liveness probe must not end it"
    await proxy.set_mode(Mode.PASS)
    await cloud.active(mic)
    (line,) = complaints(mic)
    assert "no contact with the API server yet" in line
    assert await mic.stop() == 0


@pytest.mark.parametrize(
    ("status", "reason", "path", "expected"),
    [
        (401, "Unauthorized", "", "check the service account's token"),
        (503, "ServiceUnavailable", "", "see the API server's log"),
        (403, "Forbidden", "/leases", "grant get, create and update of it in the Role"),
    ],
)
async def test_requests_that_the_api_server_rejects_are_reported_once_a_minute_and_waited_for(
    cloud: EmulatedCloud, status: int, reason: str, path: str, expected: str
) -> None:
    rejected = 0

    def reject(request: Recorded) -> StatusError | None:
        nonlocal rejected
        rejected += path in request.path
        return StatusError(status, reason, "made up") if path in request.path else None

    cloud.api.intercept = reject
    mic = await cloud.mic(active=False)
    await cloud.until(lambda: rejected >= 3 and complaints(mic))
    cloud.api.intercept = None
    await cloud.active(mic)
    (line,) = complaints(mic)
    assert expected in line


async def test_sigterm_during_the_wait_ends_mic_cleanly(cloud: EmulatedCloud, proxy: FaultProxy) -> None:
    await proxy.set_mode(Mode.HANG)
    mic = await cloud.mic(active=False)
    await not_ready(mic, "no contact")
    async with asyncio.timeout(20.0):
        assert await mic.stop() == 0
