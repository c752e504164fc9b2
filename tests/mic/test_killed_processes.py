"""`python -m mic` is killed during a call (SIGKILL), and another process continues its work.

`history/test_killed_at_every_call` tests every call, in one process. This module tests some of them with real
processes. The tests delete the lease of the killed process; `test_the_real_program` waits until it expires.
"""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.serving import ResponseFaults, json_response
from tests.mic.emulated_cloud import EmulatedCloud, Mic, emulated_cloud
from tests.support.objects import identity_id, vm_id


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        made.node("n0")
        made.node("n1")
        made.identity()
        made.identity("foreign")
        identity = made.directory.identity(identity_id("foreign"))
        assert identity is not None
        made.arm.vm(vm_id("n0")).attach(identity)
        yield made


class _Killing(ResponseFaults):
    """Kills MIC on the update of a host: it is not made or, with *done*, its response is lost."""

    def __init__(self, mic: Mic, *, done: bool) -> None:
        super().__init__()
        self._mic, self._done = mic, done

    @override
    async def apply(self, request: web.BaseRequest) -> web.Response | None:
        if self._mic.process.returncode is None and request.method == "PATCH":
            self._mic.process.send_signal(signal.SIGKILL)
            await self._mic.process.wait()
            return None if self._done else json_response({}, status=503)
        return None


def _kill_at_api_call(cloud: EmulatedCloud, mic: Mic, method: str, *, done: bool) -> None:
    """Kill MIC on its next write of an AzureAssignedIdentity with *method*."""
    left = [True]

    def intercept(request: Recorded) -> StatusError | None:
        if left and request.method == method and "azureassignedidentities" in request.path:
            left.clear()
            mic.process.send_signal(signal.SIGKILL)
            return None if done else StatusError(500, "InternalError", "the process has ended")
        return None

    cloud.api.intercept = intercept


async def _followed(cloud: EmulatedCloud, killed: Mic) -> None:
    """The process was killed, and another one leads."""
    assert await killed.ended() == -signal.SIGKILL
    cloud.running.remove(killed)
    cloud.api.store.delete("leases.coordination.k8s.io", "aad-pod-identity-mic", "default")
    await cloud.mic()


@pytest.mark.parametrize("done", [False, True], ids=["not-done", "done"])
@pytest.mark.parametrize("call", ["create", "update"])
async def test_a_process_killed_while_it_assigns(cloud: EmulatedCloud, call: str, *, done: bool) -> None:
    first = await cloud.mic()
    if call == "create":
        _kill_at_api_call(cloud, first, "POST", done=done)
    else:
        cloud.arm.faults = _Killing(first, done=done)
    cloud.pod("web", "n0")
    await _followed(cloud, first)
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert cloud.on(vm_id("n0")) == {"demo", "foreign"}
    cloud.remove_pod("web")
    await cloud.until(lambda: not cloud.assigned() and cloud.on(vm_id("n0")) == {"foreign"})


@pytest.mark.parametrize("done", [False, True], ids=["not-done", "done"])
@pytest.mark.parametrize("call", ["revoke", "update"])
async def test_a_process_killed_while_it_detaches(cloud: EmulatedCloud, call: str, *, done: bool) -> None:
    first = await cloud.mic()
    cloud.pod("web", "n0")
    cloud.pod("stays", "n1")
    names = {"web-default-demo": "Assigned", "stays-default-demo": "Assigned"}
    await cloud.until(lambda: cloud.assigned() == names)
    if call == "revoke":
        _kill_at_api_call(cloud, first, "DELETE", done=done)
    else:
        cloud.arm.faults = _Killing(first, done=done)
    cloud.remove_pod("web")
    await _followed(cloud, first)
    await cloud.until(lambda: cloud.assigned() == {"stays-default-demo": "Assigned"})
    assert cloud.on(vm_id("n0")) == {"foreign"}
    assert cloud.on(vm_id("n1")) == {"demo"}
