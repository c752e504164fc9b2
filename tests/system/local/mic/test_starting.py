"""MIC's start: errors are one line with the next action, and without an API server it waits and reports why."""

import socket
import urllib.error
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mic import cli
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.mic.emulated_cloud import EmulatedCloud, Mic
from tests.support.mic.preview.run_programs import run
from tests.support.waiting import until


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
    (tmp_path / "kubeconfig").write_text(
        "current-context: c\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: hush}}]\n"
    )
    (tmp_path / "azure.json").write_text('{"tenantId": "t", "aadClientId": "c", "aadClientSecret": "hush"}')
    with socket.create_server(("0.0.0.0", 0)) as taken:
        values = {"folder": str(tmp_path), "port": taken.getsockname()[1]}
        given = ["mic", *(flag.format(**values) for flag in flags)]
        answer = await run(tmp_path, *given, kubeconfig=False, cloudconfig=False, MIC_POD_NAMESPACE="x")
    assert answer.code == 1
    assert "hush" not in answer.err
    (line,) = [line for line in answer.err.splitlines() if not line[1:5].isdigit()]  # without the log
    assert all(part.format(**values) in line for part in parts)


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


async def test_mic_waits_logs_the_cause_and_becomes_active(cloud: EmulatedCloud, proxy: FaultProxy) -> None:
    await proxy.set_mode(Mode.REFUSE)
    mic = await cloud.mic(active=False)
    assert f"127.0.0.1:{proxy.port}" in await not_ready(mic, "check that the API server runs")
    assert await mic.page("/healthz") == "Not Active", "the kubelet's liveness probe must not end it"
    await proxy.set_mode(Mode.PASS)
    await cloud.active(mic)
    first, *_ = [line for line in mic.read_log().splitlines() if line[:1] in {"W", "E"}]
    assert "no contact with the API server yet" in first
    assert await mic.stop() == 0


async def test_sigterm_during_the_wait_ends_mic_cleanly(cloud: EmulatedCloud, proxy: FaultProxy) -> None:
    await proxy.set_mode(Mode.HANG)
    mic = await cloud.mic(active=False)
    await not_ready(mic, "no contact")
    assert await mic.stop() == 0
