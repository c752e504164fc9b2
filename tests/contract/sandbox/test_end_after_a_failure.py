"""A sandbox of which a part has failed ends completely."""

import asyncio
import os
import socket
import sys
from http import HTTPStatus
from pathlib import Path

import pytest
from aiohttp import web
from typing_extensions import override

from podidentity.kube.errors import Forbidden
from podidentity.resources import PODS
from podidentity_sandbox.arm import Arm
from podidentity_sandbox.cluster import Cluster
from podidentity_sandbox.daemons import DaemonAccounts, DaemonPod, DaemonPods
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.fault_control import FaultControl, Service, azure_error, imds_error
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.launching import Launcher
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.pod_projection import NodePod
from podidentity_sandbox.processes import Program
from podidentity_sandbox.relay import Relay
from podidentity_sandbox.sandbox import NodeProgram, Sandbox
from podidentity_sandbox.serving import HttpService, listening
from podidentity_sandbox.settings import SandboxSettings
from podidentity_sandbox.tokens import TokenMint


def without_programs() -> Sandbox:
    return Sandbox(SandboxSettings(namespaces=False, programs=False, environment=os.environ))


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


async def test_an_emulator_that_fails_to_stop_leaves_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(arm: Arm) -> None:
        await HttpService.stop(arm)
        raise OSError("ARM has a fault")

    monkeypatch.setattr(Arm, "stop", fail)
    sandbox = without_programs()
    await sandbox.start()
    with pytest.raises(OSError, match="ARM has a fault"):
        await sandbox.stop()
    for service in (sandbox.azure.token_proxy, sandbox.azure.aad):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", service.port)


async def fail_to_stop(*_: float) -> int:
    raise PermissionError("this process may not send signals")


async def sleeping(name: str, folder: Path) -> Program:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    context = ExecutionContext("127.0.0.1")
    return await Program.start(name, command, context=context, log=folder / name, environment={})


async def test_a_program_that_cannot_be_stopped_leaves_no_other_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox = without_programs()
    await sandbox.start()
    programs = [await sleeping(name, tmp_path) for name in ("stuck", "nmi", "mic")]
    try:
        stuck, nmi, sandbox.mic = programs
        sandbox.nmis = {program.name: NodeProgram(program, "", 0, 0) for program in (stuck, nmi)}
        with monkeypatch.context() as patch:
            patch.setattr(stuck, "stop", fail_to_stop)
            with pytest.raises(PermissionError):
                await sandbox.stop()
        assert [program.name for program in programs if program.returncode is None] == ["stuck"]
    finally:
        for program in programs:
            await program.stop()


async def test_a_container_that_cannot_be_stopped_leaves_no_other_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = [await sleeping(name, tmp_path) for name in ("stuck", "other")]
    try:
        async with without_programs() as sandbox:
            context = ExecutionContext("127.0.0.1")
            client, network = sandbox.cluster.client, sandbox.network
            launcher = Launcher(client, network, host=context, node="n", environment={}, files=None, relayed=())
            with monkeypatch.context() as patch:
                patch.setattr(programs[0], "stop", fail_to_stop)
                with pytest.raises(PermissionError):
                    await launcher.stop(NodePod(), programs)
        assert [program.name for program in programs if program.returncode is None] == ["stuck"]
    finally:
        for program in programs:
            await program.stop()


async def test_a_relay_that_cannot_serve_leaves_no_socket() -> None:
    sockets = [listening(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM), listening()]
    relay = Relay("127.0.0.1", 1)
    with pytest.raises(ValueError, match="Socket"):
        await relay.serve(sockets)
    await relay.stop()
    try:
        assert [sock.fileno() for sock in sockets] == [-1, -1, -1]
    finally:
        for sock in sockets:
            sock.close()


async def test_a_relay_whose_start_is_cancelled_leaves_no_reader_of_its_socket() -> None:
    relay, sock = Relay("127.0.0.1", 1), listening()
    descriptor = sock.fileno()
    start = asyncio.create_task(relay.serve([sock]))
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert sock.fileno() == -1
    assert not asyncio.get_running_loop().remove_reader(descriptor)
    await relay.stop()


async def cannot_serve(_: web.SockSite) -> None:
    raise OSError("the site has a fault")


async def test_a_service_that_cannot_serve_leaves_no_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Arm(Directory(), TokenMint())
    monkeypatch.setattr(web.SockSite, "start", cannot_serve)
    with pytest.raises(OSError, match="the site has a fault"):
        await service.start()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", service.port)
    await service.stop()


async def test_a_service_whose_start_is_cancelled_leaves_no_listener_and_no_reader() -> None:
    service = Arm(Directory(), TokenMint())
    start = asyncio.create_task(service.start())
    while not service.port:
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", service.port)
    await service.stop()
    await service.start()  # also with the descriptor of the closed listener
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.close()
    await writer.wait_closed()
    await service.stop()


async def test_a_fault_control_that_cannot_serve_leaves_no_listener(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    control, path = FaultControl({}), tmp_path / "control.sock"
    monkeypatch.setattr(web.SockSite, "start", cannot_serve)
    with pytest.raises(OSError, match="the site has a fault"):
        await control.start(path)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(path)
    await control.stop()


async def test_a_fault_that_cannot_be_cleared_leaves_no_other_fault_and_no_listener(tmp_path: Path) -> None:
    class Broken(Arm):
        conditions = ("broken",)

        @override
        def set_condition(self, condition: str) -> None:
            if not condition:
                raise RuntimeError("the connections have a fault")

    path = tmp_path / "control.sock"
    imds = Service(Broken(Directory(), TokenMint()), imds_error)
    control = FaultControl({"imds": imds, "arm": Service(Arm(Directory(), TokenMint()), azure_error)})
    await control.start(path)
    control.set({"imds": "broken", "arm": "500"})
    with pytest.raises(RuntimeError, match="the connections have a fault"):
        await control.stop()
    assert control.active == {}
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(path)
