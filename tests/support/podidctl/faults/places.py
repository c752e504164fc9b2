"""Places into which the faults of `catalogue` are injected: the protocol, and a sandbox.

`tests/system/node/scenarios/node_place.py` implements the protocol for a real node.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES
from podidentity_sandbox.azure import AzureEmulator
from podidentity_sandbox.cluster import kind_of
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from tests.support.identity_requests import CLIENT_SECONDS, NODE, ask, run_pod
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.waiting import until

T = TypeVar("T")

POD: Final = "web"
"""The name of the pod that shows the fault, in the namespace default."""
NO_CONNECTION: Final = "no connection"


@dataclass(frozen=True)
class PodRequest:
    """What the pod adds to the usual request for a token."""

    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = CLIENT_SECONDS
    """How long its client waits."""


class Place(Protocol):
    """A cluster with MIC, NMI and an emulated Azure."""

    identity: str
    """The name of the pod's identity on Azure."""

    async def on_azure(self, act: Callable[[AzureEmulator], T]) -> T:
        """Return the result of *act*, called with the emulator."""

    async def apply(self, document: Mapping[str, Any]) -> None:
        """Create the object."""

    async def run_pod(self, labels: Mapping[str, str], **metadata: Any) -> None:
        """Create the pod POD and wait until it runs."""

    async def until_assigned(self) -> None:
        """Wait until MIC has assigned an identity to the pod."""

    async def set_fault(self, service: str, value: str) -> None:
        """Set a fault as `podidctl sandbox fault SERVICE=VALUE` does."""

    async def trust(self, client_id: str, *, account: str, audience: str) -> None:
        """Let the identity trust the pods of a service account of the namespace default."""

    async def stop_mic(self) -> None:
        """Stop all replicas of MIC."""

    async def stop_nmi(self) -> None:
        """Stop NMI on the pod's node."""

    async def respond(self, request: PodRequest) -> str:
        """Return status and text of the response to the pod's request, or NO_CONNECTION."""

    async def podidctl(self, *words: str) -> CommandResult:
        """Run the command as the administrator of the cluster, with JSON output."""


class SandboxPlace:
    """A sandbox, which a test uses for one fault."""

    identity = POD

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._context: ExecutionContext | None = None

    async def on_azure(self, act: Callable[[AzureEmulator], T]) -> T:
        return act(self._sandbox.azure)

    async def apply(self, document: Mapping[str, Any]) -> None:
        await self._sandbox.cluster.apply(dict(document))

    async def run_pod(self, labels: Mapping[str, str], **metadata: Any) -> None:
        for owner in metadata.get("ownerReferences", ()):
            existing = await self._sandbox.cluster.client.get(kind_of(owner), "default", owner["name"])
            owner["uid"] = existing.metadata.uid
        self._context = await run_pod(self._sandbox, POD, labels, **metadata)

    async def until_assigned(self) -> None:
        async def assigned() -> bool:
            objects = await self._sandbox.cluster.client.list(ASSIGNED_IDENTITIES)
            return any(object_.spec.pod == POD and object_.status.status == ASSIGNED for object_ in objects)

        await until(assigned)

    async def set_fault(self, service: str, value: str) -> None:
        self._sandbox.faults.set({service: value})

    async def trust(self, client_id: str, *, account: str, audience: str) -> None:
        await self._sandbox.trust(account, client_id=client_id, audience=audience)

    async def stop_mic(self) -> None:
        assert self._sandbox.mic is not None
        await self._sandbox.mic.stop()

    async def stop_nmi(self) -> None:
        await self._sandbox.nmis[NODE].program.stop()

    async def respond(self, request: PodRequest) -> str:
        assert self._context is not None
        headers = {"Metadata": "true", **request.headers}
        try:
            response = await ask(
                self._sandbox, self._context, headers=headers, seconds=request.seconds, **request.query
            )
        except AssertionError:
            return NO_CONNECTION if request.seconds == CLIENT_SECONDS else f"no response within {request.seconds:g} s"
        return f"{response.status} {response.body.get('error_description', 'a token')}"

    async def podidctl(self, *words: str) -> CommandResult:
        environ: Any = self._sandbox.shell_environment()
        folder = self._sandbox.folder
        return await run(folder, "podidctl", *words, "-o", "json", kubeconfig=False, cloudconfig=False, **environ)
