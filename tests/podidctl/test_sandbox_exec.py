"""`podidctl sandbox exec` for pods without a network namespace."""

import asyncio
from pathlib import Path

import pytest

from podidctl.cli import main
from tests.mic.emulated_cloud import EmulatedCloud


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
