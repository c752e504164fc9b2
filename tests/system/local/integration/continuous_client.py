"""A pod that requests tokens continuously, and the number of its requests that bypassed NMI and reached IMDS."""

import asyncio
import ipaddress
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from podidentity.resources import PODS
from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.imds import HostIdentities, ImdsVm
from podidentity_sandbox.network import METADATA_ADDRESS
from podidentity_sandbox.sandbox import Sandbox
from tests.support.identity_requests import REFUSED, attempt, run_bound_pod
from tests.support.waiting import until

PODS_OF_NODE_0 = ipaddress.IPv4Network("10.200.0.0/24")


class Asker:
    """Client inside the pod's network namespace that sends requests continuously, each on a new connection."""

    def __init__(self, sandbox: Sandbox, uid: str) -> None:
        assert isinstance(sandbox.network, Fabric)
        self.outcomes: list[str] = []
        """Of each request: the HTTP status, REFUSED, or the name of another error."""
        self._sandbox = sandbox
        self._namespaces = sandbox.network.namespaces
        self._uid = uid
        self.stop = threading.Event()

    @property
    def reached_imds(self) -> int:
        """Number of requests that IMDS received from pods instead of NMI."""
        return sum(1 for call in self._sandbox.azure.imds.calls if call.host == "a pod")

    async def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the outcomes of requests that end from now on satisfy *holds*, and return them."""
        first = len(self.outcomes)
        await until(lambda: holds(self.outcomes[first:]))
        return self.outcomes[first:]

    async def tokens_flow(self) -> None:
        """Wait for three consecutive tokens."""
        await self.until(lambda came: came[-3:] == ["200"] * 3)

    async def all_refused(self, count: int = 20) -> None:
        """Wait for *count* requests that start from now on, and assert that none of them was answered."""
        came = await self.until(lambda came: len(came) > count)
        assert set(came[1:]) == {REFUSED}, came  # the first may have started earlier

    def run(self) -> None:
        """Send requests until *stop* is set."""

        def ask() -> None:
            while not self.stop.wait(0.005):
                self.outcomes.append(attempt(METADATA_ADDRESS, 80))

        self._namespaces.call(f"pod-{self._uid}", ask)


@asynccontextmanager
async def asking(sandbox: Sandbox) -> AsyncIterator[Asker]:
    """Run a pod with an identity that sends requests. IMDS distinguishes requests of pods from those of the node."""
    sandbox.azure.imds.hosts.insert(0, ImdsVm("a pod", (PODS_OF_NODE_0,), HostIdentities))
    await run_bound_pod(sandbox, "asking")
    asker = Asker(sandbox, (await sandbox.cluster.client.get(PODS, "default", "asking")).metadata.uid)
    running = asyncio.create_task(asyncio.to_thread(asker.run))
    try:
        await asker.tokens_flow()
        yield asker
    finally:
        asker.stop.set()
        await running
