"""The environment of the real NMI in a soak: API server and IMDS of the sandbox, and their faults.

Two programs are replaced. There is no kubelet: the owner of the SoakNode writes a pod's address and phase. There is no
MIC, which is not under test: its AzureAssignedIdentities are written directly, in the same shape.
"""

import asyncio
import math
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Final, Self

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.settings import SandboxSettings
from tests.support import identity_requests
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.identity_requests import attach, start_again

NODE: Final = identity_requests.NODE
TOKEN_SECONDS: Final = 900.0
"""So short that tokens are renewed during a run; a real one lives a day."""
STATE_READ_SECONDS: Final = 0.1

Fault = Callable[[], Awaitable[None]]


class SoakNode:
    """One node. `async with` it: inside, NMI is Active. It reaches the API server by `proxy`, and `client` does not."""

    def __init__(self, identities: int, *, flags: tuple[str, ...] = ()) -> None:
        settings = SandboxSettings(
            namespaces=False, programs=False, run_pods=False, schedule=False, environment=os.environ, nmi_flags=flags
        )
        self.sandbox = Sandbox(settings)
        self._identities = identities
        self._reading: asyncio.Task[dict[str, Any]] | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            sandbox = await stack.enter_async_context(self.sandbox)
            self.imds, self.client = sandbox.azure.imds, sandbox.cluster.client
            self.imds.token_seconds = TOKEN_SECONDS
            self.identities = [
                sandbox.azure.directory.add_identity(
                    identity_id(f"id-{number}"), client_id=f"c11e0000-0000-4000-8000-{number:012d}"
                )
                for number in range(self._identities)
            ]
            for identity in self.identities:
                attach(sandbox, identity)
            assert sandbox.cluster.api is not None
            self.api = sandbox.cluster.api
            self.proxy = FaultProxy("127.0.0.1", self.api.port)
            await self.proxy.start()
            stack.push_async_callback(self.proxy.stop)
            kubeconfig = sandbox.cluster.kubeconfig
            kubeconfig.write_text(self.api.kubeconfig().replace(f":{self.api.port}", f":{self.proxy.port}"))
            await start_again(sandbox)
            self.nmi = sandbox.nmis[NODE].program
            self.port = int(sandbox.nmis[NODE].url.rpartition(":")[2])
            self.watches = self.api.watch_count()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def pods_of_nmi(self) -> dict[str, Any]:
        """Return the next state of NMI's pods, by uid: one is read at a time, for all that wait."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_pods(), name="NMI's state")
        return await asyncio.shield(self._reading)

    async def _read_pods(self) -> dict[str, Any]:
        await asyncio.sleep(STATE_READ_SECONDS)
        feed = (await identity_requests.state(self.sandbox))["feed"]
        assert feed["pods_left_out"] == 0
        return {pod["uid"]: pod for pod in feed["pods"]}


class Faults:
    """Faults around NMI, one concurrent fault on either side, with breaks in between."""

    def __init__(self, soak_node: SoakNode, seed: int, *, every_seconds: float) -> None:
        self._soak_node = soak_node
        self._draw = random.Random(seed)
        self._every = every_seconds
        self._troubled = False
        self.suffered: Counter[str] = Counter()
        """How often each fault came."""

    @property
    def disturbed(self) -> bool:
        """Whether a fault keeps NMI from learning of changes at once."""
        return self._troubled or self._soak_node.api.watch_count() < self._soak_node.watches

    async def of_imds(self) -> None:
        """Run until cancelled."""
        respond = self._imds_responds
        await self._cause(
            {
                "imds 429": partial(respond, "too_many_requests", status=429, headers={"Retry-After": "2"}),
                "imds 500": partial(respond, "internal_error", status=500),
                "imds 410": partial(respond, "gone", status=410),
                "imds hangs": partial(respond, status=500, delay_seconds=30),
                "imds is slow": partial(respond, delay_seconds=0.7),
            }
        )

    async def of_the_api_server(self) -> None:
        """Run until cancelled."""
        await self._cause(
            {
                "watches end": self._watches_end,
                "history is forgotten": self._history_is_forgotten,
                "connections are reset": partial(self._switched, Mode.RESET),
                "half-open connections": partial(self._switched, Mode.SILENT),
                "connections are refused": self._refused,
                "api server says 500": self._fails_with_500,
            }
        )

    async def _cause(self, faults: Mapping[str, Fault]) -> None:
        while True:
            for name in self._draw.sample(list(faults), len(faults)):
                await self._wait(0.5, 1.5)
                self.suffered[name] += 1
                await faults[name]()

    async def _wait(self, least: float, most: float) -> None:
        """Wait for a time between these parts of the usual time from one fault to the next."""
        await asyncio.sleep(self._every * self._draw.uniform(least, most))

    async def _imds_responds(self, error: str = "", **response: Any) -> None:
        self._soak_node.imds.faults.add(ResponseFault(document={"error": error}, times=math.inf, **response))
        await self._wait(0.3, 0.6)
        self._soak_node.imds.faults.clear()

    async def _watches_end(self) -> None:
        self._soak_node.api.drop_watches()

    async def _history_is_forgotten(self) -> None:
        self._soak_node.api.compact()
        self._soak_node.api.drop_watches()

    async def _refused(self) -> None:
        await self._soak_node.proxy.reset_connections()
        await self._switched(Mode.REFUSE)

    async def _switched(self, mode: Mode) -> None:
        self._troubled = True
        try:
            await self._soak_node.proxy.set_mode(mode)
            await self._wait(0.1, 0.5)
        finally:
            with suppress(OSError):
                await self._soak_node.proxy.set_mode(Mode.PASS)
            self._troubled = False

    async def _fails_with_500(self) -> None:
        def refuse(request: Recorded) -> StatusError | None:
            ours = request.user_agent.startswith("podidctl-sandbox/")
            return None if ours else StatusError(500, "InternalError", "a fault of the soak")

        self._troubled = True
        self._soak_node.api.intercept = refuse
        self._soak_node.api.drop_watches()
        try:
            await self._wait(0.3, 0.3)
        finally:
            self._soak_node.api.intercept = None
            self._troubled = False
