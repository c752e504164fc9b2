"""Test interface to a sandbox: identities, pods bound to them, and applications that run in the pods."""

import asyncio
import http.client
import re
import socket
import subprocess
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from podidentity.resources import ASSIGNED_IDENTITIES, PODS, Kind, Resource
from podidentity.telemetry.probes import EXPOSED_SECONDS
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.tokens import read_claims
from tests.support.waiting import until
from tests.system.sdks.applications import Application

NODE: Final = "node-0"
RESOURCE: Final = "https://vault.azure.net"
SCOPE: Final = f"{RESOURCE}/.default"
NAMESPACES: Final = Kind("Namespace", "namespaces", Resource, namespaced=False)
PATIENCE_SECONDS: Final = 240.0
"""Time limit for an application. Java's SDK retries for 140 s if each attempt ends with a 404 after a second."""
EXCHANGE_SECONDS: Final = 30.0
SYSTEM_PATH: Final = "/usr/bin:/bin"
_COUNT: Final = re.compile(r"^aadpodidentity_nmi_operations_duration_seconds_count\{(.*)\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Output:
    """Output of an application."""

    tokens: tuple[str, ...] = field(repr=False)
    error: str
    """The SDK's own name for the failure; empty after success."""
    message: str

    @property
    def claims(self) -> dict[str, Any]:
        """The claims of the only token."""
        (token,) = self.tokens
        return read_claims(token)


@dataclass(frozen=True, slots=True)
class Pod:
    """Running pod. Its namespace, the value of its label and the selector of its bindings equal its name."""

    name: str
    uid: str
    context: ExecutionContext


class SdkSandbox:
    """Operations of these tests on the sandbox."""

    def __init__(self, sandbox: Sandbox, home: Path) -> None:
        """Use *home* as the applications' home folder, which contains no credentials of any login."""
        self.sandbox = sandbox
        self._home = home

    async def identity(self, name: str) -> ManagedIdentity:
        """Return the identity of this name.

        If it does not exist, create it and its AzureIdentity, whose annotation contains the object id for NMI.
        """
        existing = self.sandbox.azure.directory.identity(identity_id(name))
        if existing is not None:
            return existing
        identity = self.sandbox.azure.directory.add_identity(identity_id(name))
        metadata = {"name": name, "namespace": "default", "annotations": {"objectID": identity.object_id}}
        spec = {"type": 0, "resourceID": identity.resource_id, "clientID": identity.client_id}
        await self._apply("AzureIdentity", metadata, spec)
        return identity

    async def pod(self, *identities: str, labelled: bool = True, assigned: bool = True) -> Pod:
        """Create a pod bound to the AzureIdentities of these names; with *assigned*, wait for MIC to assign them."""
        name = f"p-{uuid.uuid4().hex[:8]}"
        for identity in identities:
            spec = {"azureIdentity": identity, "selector": name}
            await self._apply("AzureIdentityBinding", {"name": f"{name}-{identity}", "namespace": "default"}, spec)
        await self.sandbox.cluster.client.create(NAMESPACES, "", {"metadata": {"name": name}})
        labels = {"aadpodidbinding": name} if labelled else {}
        metadata = {"name": name, "namespace": name, "labels": labels}
        containers = [{"name": "main", "image": "application"}]
        await self.sandbox.cluster.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}
        )
        started = await until(
            lambda: self.sandbox.cluster.client.get(PODS, name, name), holds=lambda pod: pod.status.phase == "Running"
        )
        if assigned:
            await until(lambda: self.assigned(name), f"identities of {name}", holds=set(identities).__eq__)
        context = self.sandbox.cluster.kubelets[NODE].context(name, name)
        assert context is not None
        return Pod(name, started.metadata.uid, context)

    async def assigned(self, pod: str) -> set[str]:
        """Return the names of the AzureIdentities that MIC has assigned to the pod."""
        return {
            item.spec.azure_identity_ref.metadata.name
            for item in await self.sandbox.cluster.client.list(ASSIGNED_IDENTITIES)
            if item.spec.pod == pod and item.status.status == "Assigned"
        }

    def id(self, identity: ManagedIdentity, selector: str) -> str:
        """Return the id with which an application names the identity by this selector."""
        return str(getattr(identity, selector.replace("-", "_")))

    async def run(
        self,
        application: Application,
        pod: Pod,
        *arguments: str,
        kind: str = "managed",
        times: int = 1,
        environment: dict[str, str] | None = None,
    ) -> Output:
        """Run the application in the pod to its end. *arguments* are a selector and an id, or empty."""
        argv = [*application.make(), kind, SCOPE, str(times), *arguments]
        given = {"PATH": SYSTEM_PATH, "HOME": str(self._home), "LANG": "C.UTF-8", **(environment or {})}
        _, output = await run_in(pod, argv, given, seconds=PATIENCE_SECONDS)
        tokens, error, message = [], "", ""
        for line in output.splitlines():
            word, _, rest = line.partition(" ")
            if word == "token":
                tokens.append(rest)
            elif word == "failed":
                error, _, message = rest.partition(" ")
        assert tokens or error, f"the application printed no token and no error: {output[-2000:]}"
        return Output(tuple(tokens), error, message)

    async def count_responses(self, pod: Pod) -> Counter[int]:
        """Return the number of NMI's responses to the pod by status. The namespace label identifies the pod."""
        await asyncio.sleep(EXPOSED_SECONDS)  # NMI may serve metrics of that age
        counted: Counter[int] = Counter()
        for labels, count in _COUNT.findall(await self._metrics()):
            if f'namespace="{pod.name}"' in labels:
                counted[int(labels.partition('status_code="')[2].partition('"')[0])] += int(float(count))
        return counted

    async def count_held_requests(self) -> int:
        """Return the number of requests that NMI holds; the value may be a second old."""
        text = await self._metrics()
        return int(float(text.partition("\naadpodidentity_nmi_held_requests ")[2].partition("\n")[0]))

    async def exchange(self, pod: Pod, request: bytes) -> tuple[int, bytes]:
        """Send the bytes of *request* unchanged from the pod. Return status and body of the response."""

        def ask() -> tuple[int, bytes]:
            with socket.create_connection((METADATA_ADDRESS, 80), timeout=EXCHANGE_SECONDS) as connection:
                connection.sendall(request)
                response = http.client.HTTPResponse(connection)
                response.begin()
                return response.status, response.read()

        assert isinstance(self.sandbox.network, Fabric)
        return await asyncio.to_thread(self.sandbox.network.namespaces.call, f"pod-{pod.uid}", ask)

    async def _metrics(self) -> str:
        def scrape() -> str:
            with urlopen(f"http://127.0.0.1:{self.sandbox.nmis[NODE].metrics_port}/metrics", timeout=10) as response:
                return str(response.read().decode())

        return await asyncio.to_thread(self.sandbox.network.call_on_node, NODE, scrape)

    async def _apply(self, kind: str, metadata: dict[str, Any], spec: dict[str, Any]) -> None:
        document = {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
        await self.sandbox.cluster.apply(document)


async def run_in(
    pod: Pod, argv: Sequence[str], environment: Mapping[str, str], *, seconds: float, folder: Path | None = None
) -> tuple[int, str]:
    """Run a command in *pod* to its end. Return its exit code and its output, which no log may contain."""
    process = await asyncio.create_subprocess_exec(
        *pod.context.command(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**environment, **pod.context.environment},
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
