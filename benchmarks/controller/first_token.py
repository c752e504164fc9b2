"""Time from a pod's start to its first token: for an identity that MIC attaches to the VM, and for a federated one.

The real API server, MIC and NMI; Azure is the sandbox's. A pod sends its request when a witness, which
watches the API server, sees it Running. Its identity and binding were created a second before, and NMI has served
another pod of that kind. AAD takes AAD_SECONDS for each exchange; IMDS has no delay, Resource Manager's operation has.
"""

import asyncio
import math
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.controller.cases import Row, rounded
from podidentity.kube.informer import Informer
from podidentity.resources import PODS, IdentityType, Pod
from podidentity_sandbox.azure import DEMO_CLIENT_ID, identity_id
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.settings import SandboxSettings
from tests.conftest import apply_definitions
from tests.support.testplane.up import Plane

AAD_SECONDS: Final = 0.05
NODE: Final = "node-0"
SETTLE_SECONDS: Final = 1.0
CASES: Final = (
    (IdentityType.FEDERATED, 0.0, 9),
    (IdentityType.USER_ASSIGNED, 5.0, 3),
    (IdentityType.USER_ASSIGNED, 40.0, 1),
)
"""Type of the identity, seconds of Resource Manager's operation, and number of repetitions."""


class Running:
    """The time at which each pod was Running."""

    def __init__(self) -> None:
        self._seen: dict[str, asyncio.Future[float]] = {}

    def of(self, name: str) -> "asyncio.Future[float]":
        return self._seen.setdefault(name, asyncio.get_running_loop().create_future())

    def upserted(self, _old: Pod | None, new: Pod) -> None:
        seen = self.of(new.metadata.name)
        if new.status.phase == "Running" and new.addresses and not seen.done():
            seen.set_result(time.monotonic())

    def deleted(self, old: Pod) -> None:
        pass


@asynccontextmanager
async def benchmark_node() -> AsyncIterator[tuple[Sandbox, Running]]:
    """The sandbox on a real API server, and a witness of its pods."""
    plane = await asyncio.to_thread(Plane)
    try:
        await asyncio.to_thread(apply_definitions, plane)
        settings = SandboxSettings(
            kubeconfig=Path(plane.kubeconfig),
            namespaces=False,
            nmi_flags=["--federated-identities"],
            environment=os.environ,
        )
        async with Sandbox(settings) as sandbox:
            running = Running()
            watch = asyncio.create_task(Informer(sandbox.cluster.client, PODS, running).run())
            try:
                yield sandbox, running
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
    finally:
        await asyncio.to_thread(plane.stop)


async def first_tokens() -> list[Row]:
    """Run all cases on one cluster."""
    rows = []
    async with benchmark_node() as (sandbox, running):
        sandbox.azure.aad.faults.add(
            ResponseFault(delay_seconds=AAD_SECONDS, times=math.inf, path="/oauth2/v2.0/token")
        )
        for number, (kind, operation, times) in enumerate(CASES):
            sandbox.azure.arm.vm(sandbox.vm_id(NODE)).operation_seconds = operation
            waits = [
                await _first_token(sandbox, running, kind, f"case-{number}-{repetition}")
                for repetition in range(times + 1)
            ]
            waits = sorted(waits[1:])  # the first one prepares the node
            figures = {"median_s": statistics.median(waits), "longest_s": waits[-1]}
            rows.append(Row(f"first token, type {kind}", operation, figures))
            sys.stderr.write(f"  {rounded(rows[-1])}\n")
    return rows


async def _first_token(sandbox: Sandbox, running: Running, kind: IdentityType, name: str) -> float:
    client_id = DEMO_CLIENT_ID
    spec: dict[str, Any] = {"type": int(kind), "tenantID": sandbox.azure.directory.tenant_id}
    if kind is IdentityType.USER_ASSIGNED:
        identity = sandbox.azure.directory.add_identity(identity_id(name))
        client_id, spec["resourceID"] = identity.client_id, identity.resource_id
    else:
        await sandbox.cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
        await sandbox.trust(name)
    spec["clientID"] = client_id
    binding = {"azureIdentity": name, "selector": name}
    for document_kind, about in (("AzureIdentity", spec), ("AzureIdentityBinding", binding)):
        metadata = {"name": name, "namespace": "default"}
        document = {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": document_kind, "metadata": metadata}
        await sandbox.cluster.apply(document | {"spec": about})
    await asyncio.sleep(SETTLE_SECONDS)
    account = name if kind is IdentityType.FEDERATED else "default"
    await sandbox.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"aadpodidbinding": name}},
            "spec": {
                "nodeName": NODE,
                "serviceAccountName": account,
                "containers": [{"name": "main", "image": "pause"}],
            },
        }
    )
    begun = await asyncio.wait_for(running.of(name), 30.0)
    context = sandbox.cluster.kubelets[NODE].context("default", name)
    assert context is not None
    connector = aiohttp.TCPConnector(local_addr=(context.environment["SANDBOX_SOURCE_ADDRESS"], 0))
    url = f"{sandbox.metadata_url(NODE)}/metadata/identity/oauth2/token"
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(url, params={"resource": "https://vault.azure.net"}, headers={"Metadata": "true"}) as response,
    ):
        document = await response.json()
        took = time.monotonic() - begun
    assert (response.status, document["client_id"]) == (200, client_id), document
    return took
