"""A sandbox of which a part has failed ends completely."""

import asyncio
import os
from http import HTTPStatus
from pathlib import Path

import pytest

from podidentity.kube.errors import Forbidden
from podidentity.resources import PODS
from podidentity_sandbox.cluster import Cluster
from podidentity_sandbox.daemons import DaemonAccounts, DaemonPod, DaemonPods
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings


def without_programs() -> Sandbox:
    return Sandbox(Settings(namespaces=False, programs=False, environment=os.environ))


async def test_a_failed_scheduler_leaves_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_cluster: Cluster, _nodes: object) -> None:
        raise ValueError("the scheduler has a fault")

    monkeypatch.setattr(Cluster, "_run", fail)
    sandbox = without_programs()
    async with sandbox:
        assert sandbox.cluster.api is not None
        port = sandbox.cluster.api.port
        assert "the scheduler has a fault" in sandbox.failure()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_failed_start_leaves_no_pod_of_a_daemon(tmp_path: Path) -> None:
    def refuse(request: Recorded) -> StatusError | None:
        return StatusError(HTTPStatus.FORBIDDEN, "Forbidden", "no") if request.path.endswith("/status") else None

    async with without_programs() as sandbox:
        await DaemonAccounts(sandbox.cluster, tokens=False).create()
        node = sandbox.node_names[0]
        mic = DaemonPod(
            name="mic",
            program="mic",
            node=node,
            address="127.0.0.1",
            flags=(),
            environment={},
            log=tmp_path / "mic.log",
            is_ready=lambda: True,
        )
        pods = DaemonPods(sandbox.cluster, [mic])
        assert sandbox.cluster.api is not None
        sandbox.cluster.api.intercept = refuse
        with pytest.raises(Forbidden):
            await pods.start()
        assert [pod.metadata.name for pod in await sandbox.cluster.client.list(PODS)] == ["mic"]
        await pods.stop()
        assert await sandbox.cluster.client.list(PODS) == []
