"""The environment of the real NMI in a soak: API server and IMDS of the sandbox, and their faults.

Two programs are replaced. There is no kubelet: the owner of the SoakNode writes a pod's address and phase. There is no
MIC, which is not under test: its AzureAssignedIdentities are written directly, in the same shape.
"""

import asyncio
import http.client
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity_sandbox.cluster import CRDS
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.faults import FaultProxy, Mode
from podidentity_sandbox.imds import HostIdentities, Imds
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.processes import Program, python
from podidentity_sandbox.serving import ResponseFault, free_ports
from podidentity_sandbox.tokens import TokenMint
from tests.support.waiting import until

NODE: Final = "node-0"
ACTIVE_SECONDS: Final = 30.0
TOKEN_SECONDS: Final = 900.0
"""So short that tokens are renewed during a run; a real one lives a day."""
USER_AGENT: Final = "soak"
WATCHES_READ_SECONDS: Final = 0.05
IDENTITY_ID: Final = (
    "/subscriptions/00000000-0000-4000-8000-000000000000/resourceGroups/soak"
    "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
)


class SoakNode:
    """One node. `async with` it: inside, NMI is Active."""

    def __init__(self, identities: int, *, flags: tuple[str, ...] = ()) -> None:
        self.identities = [
            ManagedIdentity(
                f"{IDENTITY_ID}id-{number}",
                f"c11e0000-0000-4000-8000-{number:012d}",
                f"0b1ec700-0000-4000-8000-{number:012d}",
                "7e4a0000-0000-4000-8000-000000000000",
            )
            for number in range(identities)
        ]
        self.folder = Path()
        self.port, self.probe_port, self.metrics_port = free_ports(3)
        self._flags = flags

    async def __aenter__(self) -> Self:
        self.folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="soak-"))
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self) -> None:
        self.imds = Imds(await asyncio.to_thread(TokenMint), token_seconds=TOKEN_SECONDS)
        await self.imds.start_on_loopback(lambda: HostIdentities(tuple(self.identities)))
        self.api = await asyncio.to_thread(KubeApi, CRDS)
        await self.api.start()
        self.proxy = FaultProxy("127.0.0.1", self.api.port)
        await self.proxy.start()
        self.client = await self._direct_client()
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(self.api.kubeconfig().replace(f":{self.api.port}", f":{self.proxy.port}"))
        self.nmi = await Program.start(
            "nmi",
            python(
                "nmi",
                f"--node={NODE}",
                f"--kubeconfig={kubeconfig}",
                f"--nmi-port={self.port}",
                f"--http-probe-port={self.probe_port}",
                f"--prometheus-port={self.metrics_port}",
                "--redirect=none",
                "--metadata-ip=127.0.0.1",
                f"--metadata-port={self.imds.port}",
                *self._flags,
            ),
            context=ExecutionContext("127.0.0.1"),
            log=self.folder / "nmi.log",
            environment={name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ},
        )

        async def healthz() -> str:
            if self.nmi.returncode is not None:
                raise self.nmi.exit_error()
            return (await asyncio.to_thread(fetched, self.probe_port, "/healthz")).strip()

        await until(healthz, "NMI is active", holds="Active".__eq__)
        self.watches = self.api.watch_count()

    async def _direct_client(self) -> Client:
        """Of the administrator, past the faults."""
        bearer = f"Bearer {self.api.token}"

        async def authorization() -> str:
            return bearer

        context = await asyncio.to_thread(self.api.authority.client_context)
        return Client(ClusterAccess(self.api.server, context, authorization), user_agent=USER_AGENT)

    async def _stop(self) -> None:
        if hasattr(self, "nmi"):
            await self.nmi.stop()
        if hasattr(self, "client"):
            await self.client.aclose()
        if hasattr(self, "proxy"):
            await self.proxy.stop()
        if hasattr(self, "api"):
            await self.api.stop()
        if hasattr(self, "imds"):
            await self.imds.stop()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)


def fetched(port: int, path: str) -> str:
    """Return the body of a GET on this machine, or an empty one without a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


class Faults:
    """Faults around NMI, one concurrent fault on either side, with breaks in between."""

    def __init__(self, soak_node: SoakNode, seed: int, *, every_seconds: float) -> None:
        self._soak_node = soak_node
        self._draw = random.Random(seed)
        self._every = every_seconds
        self._troubled = False
        self.suffered: dict[str, int] = {}
        """How often each fault came."""

    async def settled(self, seconds: float) -> bool:
        """Return once every watch of NMI's has been whole for *seconds* on end, counted from now.

        Whether they were so all the time. A pause of the machine does not count: NMI did not run either.
        """
        undisturbed, whole_for, read_at = True, 0.0, time.monotonic()
        while whole_for < seconds:
            if self._troubled or self._soak_node.api.watch_count() < self._soak_node.watches:
                undisturbed, whole_for = False, 0.0
            await asyncio.sleep(WATCHES_READ_SECONDS)
            now = time.monotonic()
            whole_for += min(now - read_at, 2 * WATCHES_READ_SECONDS)
            read_at = now
        return undisturbed

    async def of_imds(self) -> None:
        """Run until cancelled."""
        imds = self._soak_node.imds
        response_faults = {
            "imds 429": ResponseFault(
                status=429, headers={"Retry-After": "2"}, document={"error": "too_many_requests"}
            ),
            "imds 500": ResponseFault(status=500, document={"error": "internal_error"}),
            "imds 410": ResponseFault(status=410, document={"error": "gone"}),
            "imds hangs": ResponseFault(status=500, delay_seconds=30),
            "imds is slow": ResponseFault(delay_seconds=0.7),
        }
        while True:
            for name in self._draw.sample(list(response_faults), len(response_faults)):
                await asyncio.sleep(self._every * self._draw.uniform(0.5, 1.5))
                self._note(name)
                response_faults[name].times = math.inf
                imds.faults.add(response_faults[name])
                await asyncio.sleep(self._every * self._draw.uniform(0.3, 0.6))
                imds.faults.clear()

    async def of_the_api_server(self) -> None:
        """Run until cancelled."""
        faults: dict[str, Callable[[], Awaitable[None]]] = {
            "watches end": partial(self._watches_end, compacted=False),
            "history is forgotten": partial(self._watches_end, compacted=True),
            "connections are reset": partial(self._switched, Mode.RESET),
            "half-open connections": partial(self._switched, Mode.SILENT),
            "connections are refused": self._refused,
            "api server says 500": self._says_500,
        }
        while True:
            for name in self._draw.sample(list(faults), len(faults)):
                await asyncio.sleep(self._every * self._draw.uniform(0.5, 1.5))
                self._note(name)
                self._troubled = True
                try:
                    await faults[name]()
                finally:
                    self._troubled = False

    def _note(self, name: str) -> None:
        self.suffered[name] = self.suffered.get(name, 0) + 1

    async def _watches_end(self, *, compacted: bool) -> None:
        if compacted:
            self._soak_node.api.compact()
        self._soak_node.api.drop_watches()

    async def _refused(self) -> None:
        await self._soak_node.proxy.reset_connections()
        await self._switched(Mode.REFUSE)

    async def _switched(self, mode: Mode) -> None:
        try:
            await self._soak_node.proxy.set_mode(mode)
            await asyncio.sleep(self._every * self._draw.uniform(0.1, 0.5))
        finally:
            with suppress(OSError):
                await self._soak_node.proxy.set_mode(Mode.PASS)

    async def _says_500(self) -> None:
        def refuse(asked: Recorded) -> StatusError | None:
            theirs = asked.user_agent == USER_AGENT
            return None if theirs else StatusError(500, "InternalError", "a soak reports every event")

        self._soak_node.api.intercept = refuse
        self._soak_node.api.drop_watches()
        try:
            await asyncio.sleep(self._every * 0.3)
        finally:
            self._soak_node.api.intercept = None
