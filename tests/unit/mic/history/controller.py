"""One process of MIC, assembled as in `mic.app`, with the loop's clock and without flags or probes; and its real
clients and the sandbox's real servers, connected in memory, in virtual time.

All run in one event loop. TLS is omitted. All other parts are those of the programs.
"""

import asyncio
import functools
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry
from typing_extensions import override

from mic.azure.compute import Compute
from mic.cluster.view import ClusterView
from mic.decisions.policy import Policy
from mic.metrics import MicMetrics
from mic.reconciliation.controller import Controller
from mic.reconciliation.host_reconciler import HostReconciler
from mic.reconciliation.host_updater import HostUpdater
from mic.reconciliation.writer import Writer
from podidentity.azure.clouds import Cloud
from podidentity.kube.events import EventRecorder
from podidentity.kube.informer import Informer
from podidentity.kube.lease import Elector
from podidentity.resources import ASSIGNED_IDENTITIES, BINDING_LABEL, BINDINGS, IDENTITIES, NODES, PODS, AzureIdentity
from podidentity_sandbox.arm import Arm, ArmCall
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.machines import Machine
from podidentity_sandbox.tokens import TokenMint
from tests.support.memory_api import MemoryApi
from tests.support.memory_network import MemoryNetwork
from tests.support.mic.arm_client import AUDIENCE, Token, token_of_mic
from tests.support.mic.world import MemoryLeaderClient
from tests.support.virtual_time import now
from tests.unit.mic.history.faults import Gate
from tests.unit.mic.history.oracle import Watcher

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
            self._watcher.check_update(request.path, json.loads(await request.read()))
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
        super().__init__(Token(arm.token), cloud, user_agent=f"{name}/test", may_write=may_write)
        self._arm = arm

    @override
    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=self._arm.network.connector(), auto_decompress=False)
        return self._session


LOOK_SECONDS = 180.0
LEASE = "aad-pod-identity-mic"
LEASE_SECONDS = 15.0
LEASE_NEEDED_SECONDS = LEASE_SECONDS * 0.6


class MicProcess:
    """Create and start the process inside the loop. It leads from its start, unless it *elects* the leader."""

    def __init__(
        self, name: str, api: GatedApi, arm: GatedArm, *, policy: Policy, grace_seconds: float, elects: bool = False
    ) -> None:
        self.name = name
        self._elects = elects
        self._elector_client = api.client(f"{name}/test")
        self._elector = Elector(
            self._elector_client,
            namespace="default",
            name=LEASE,
            identity=name,
            duration_seconds=LEASE_SECONDS,
            with_go_implementation=True,
            now=lambda: datetime.fromtimestamp(now(), UTC),
            random=random.Random(name).random,
        )
        self._client = MemoryLeaderClient(api, f"{name}/test", self._remaining_seconds)
        self._compute = WiredCompute(arm, name, lambda: self._remaining_seconds() > LEASE_NEEDED_SECONDS)
        self._recorder = EventRecorder(self._client, "mic", name)
        metrics = MicMetrics(CollectorRegistry())
        view = ClusterView(on_dirty=self._dirty, on_identity=self._identity_changed)
        writer = Writer(
            self._client,
            view,
            self._recorder,
            metrics,
            batch=20,
            per_second=50.0,
            burst=1500,
        )
        updater = HostUpdater(
            view,
            self._compute,
            policy=policy,
            max_retries=2,
            retry_seconds=1.0,
            grace_seconds=grace_seconds,
            gone_seconds=LOOK_SECONDS,
            lease_needed_seconds=LEASE_NEEDED_SECONDS,
            lease_remaining=self._remaining_seconds,
        )
        self.host_reconciler = HostReconciler(view, writer, updater, self._recorder, metrics)
        self._controller = Controller(view, self.host_reconciler, look_seconds=LOOK_SECONDS, resync_seconds=3600.0)
        self._informers = (
            Informer(self._client, PODS, view.pods, label_selector=BINDING_LABEL, random=_half),
            Informer(self._client, NODES, view.nodes, random=_half),
            Informer(self._client, IDENTITIES, view.identities, random=_half),
            Informer(self._client, BINDINGS, view.bindings, random=_half),
            Informer(self._client, ASSIGNED_IDENTITIES, view.assigned, random=_half),
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)

    def stop(self) -> asyncio.Task[None]:
        """End the process at the present point of its work."""
        assert self._task is not None
        self._task.cancel()
        return self._task

    def failed(self) -> BaseException | None:
        """Return the exception that ended the process, if any."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._elects:
                    tasks.create_task(self._elector.run(), name="leader election")
                    await self._elector.acquired()
                tasks.create_task(self._recorder.run(), name="events")
                for informer in self._informers:
                    tasks.create_task(informer.run(), name="watch")
                for informer in self._informers:
                    await informer.synced()
                tasks.create_task(self._controller.run(), name="controller")
        finally:
            if self._elects:
                await self._elector.release()
            await self._elector_client.aclose()
            await self._compute.aclose()
            await self._client.aclose()

    def _remaining_seconds(self) -> float:
        return self._elector.remaining_seconds() if self._elects else LEASE_SECONDS

    def _dirty(self, host_key: str) -> None:
        self._controller.dirty(host_key)

    def _identity_changed(self, identity: AzureIdentity) -> None:
        self._controller.identity_changed(identity)


def _half() -> float:
    return 0.5
