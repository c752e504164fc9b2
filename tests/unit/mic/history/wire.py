"""MIC's real clients and the sandbox's real servers, connected in memory, in virtual time.

All run in one event loop. TLS is omitted. All other parts are those of the programs.
"""

import functools
import json
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp import web
from typing_extensions import override

from mic.azure.compute import Compute
from podidentity.azure.clouds import Cloud
from podidentity_sandbox.arm import Arm, ArmCall
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.machines import Machine
from podidentity_sandbox.tokens import TokenMint
from tests.support.memory_api import MemoryApi
from tests.support.memory_network import MemoryNetwork
from tests.support.mic.arm_client import AUDIENCE, Token, token_of_mic
from tests.support.virtual_time import now
from tests.unit.mic.history.faults import Gate
from tests.unit.mic.history.ownership import Watcher

MANAGER: Final = "https://management.test"

mint = functools.cache(TokenMint)


class GatedApi(MemoryApi):
    """The API server behind a gate."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._gate.meet("api", request, super().respond)


class GatedArm(Arm):
    """Resource Manager behind a gate; *watcher* sees each accepted update before and after."""

    def __init__(self, directory: Directory, gate: Gate, watcher: Watcher, clock: Callable[[], float]) -> None:
        super().__init__(directory, mint(), clock=clock)
        self.scheme = "https"
        self._gate = gate
        self._watcher = watcher
        self.network = MemoryNetwork()
        self.network.serve(MANAGER, web.Server(self._gated, access_log=None))
        self.token = token_of_mic(directory, mint())

    async def _gated(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PATCH":
            self._watcher.asked(request.path, json.loads(await request.read()))
        return await self._gate.meet("arm", request, self.respond)

    @override
    def _patched(self, machine: Machine, request: web.BaseRequest, call: ArmCall) -> web.Response:
        before = dict(machine.user_assigned), machine.types
        response = super()._patched(machine, request, call)
        self._watcher.updated(machine, *before)
        return response


class WiredCompute(Compute):
    """The real SDK as a client of *arm*; https only in name, without which it would not send a token."""

    def __init__(self, arm: GatedArm, name: str, may_write: Callable[[], bool]) -> None:
        cloud = Cloud("sandbox", MANAGER, MANAGER, AUDIENCE, frozenset())
        super().__init__(Token(arm.token), cloud, user_agent=f"{name}/test", may_write=may_write, clock=now)
        self._arm = arm

    @override
    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=self._arm.network.connector(), auto_decompress=False)
        return self._session
