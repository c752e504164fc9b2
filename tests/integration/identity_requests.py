"""Helpers of the tests with the real programs: documents to apply, and requests from inside a pod or the node."""

import asyncio
import base64
import http.client
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, GROUP, PODS
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.machines import USER
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.tokens import read_claims
from tests.support.waiting import until

AUDIENCE = "https://management.azure.com/"
TOKEN = "/metadata/identity/oauth2/token"
NODE = "node-0"
SECONDS = 20.0  # for waits that take a fraction of a second on an idle machine

_ASK = """
import http.client, json, os, sys
host, source, path, headers = json.loads(sys.argv[1])
connection = http.client.HTTPConnection(host, timeout=30, source_address=(source, 0) if source else None)
connection.request("GET", path, headers=headers)
answer = connection.getresponse()
print(json.dumps([answer.status, dict(answer.headers), answer.read().decode()]))
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """Response to one request."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def claims(self) -> Mapping[str, Any]:
        return read_claims(self.body["access_token"])


def metrics(port: int) -> str:
    """Return NMI's metrics. NMI reuses the page for a second."""
    return _page(port, "/metrics")


def _page(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    try:
        return connection.getresponse().read().decode()
    finally:
        connection.close()


async def request_held(sandbox: Sandbox) -> None:
    """Wait until NMI holds a request. The metric would be up to a second old, and NMI may hold it for 1.5 s only."""
    port = sandbox.nmis[NODE].probe_port

    async def held() -> bool:
        text = await asyncio.to_thread(sandbox.network.call_on_node, NODE, lambda: _page(port, "/debug/state"))
        return bool(json.loads(text)["feed"]["held"] == 1)

    await until(held)


async def run_pod(
    sandbox: Sandbox, name: str, labels: Mapping[str, str], *, namespace: str = "default", **metadata: Any
) -> ExecutionContext:
    """Create a pod on the first node. Return its execution context once the pod runs."""
    await sandbox.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": dict(labels), **metadata},
            "spec": {"containers": [{"name": "main", "image": "pause"}], "nodeName": NODE},
        }
    )

    async def running() -> bool:
        return (await sandbox.cluster.client.get(PODS, namespace, name)).status.phase == "Running"

    await until(running)
    context = sandbox.cluster.kubelets[NODE].context(namespace, name)
    assert context is not None
    return context


async def run_bound_pod(sandbox: Sandbox, name: str) -> tuple[ManagedIdentity, ExecutionContext]:
    """Create an identity, its binding and a pod, all named *name*. Return once MIC has assigned the identity."""
    known = sandbox.azure.directory.add_identity(identity_id(name))
    await sandbox.cluster.apply(identity(name, type=0, resourceID=known.resource_id, clientID=known.client_id))
    await sandbox.cluster.apply(binding(name, name))
    context = await run_pod(sandbox, name, {"aadpodidbinding": name})
    await _assigned(sandbox, name)
    return known, context


async def _assigned(sandbox: Sandbox, pod: str) -> None:
    """Return once MIC has assigned the pod its identity."""

    async def seen() -> bool:
        found = await sandbox.cluster.client.list(ASSIGNED_IDENTITIES)
        return any(each.spec.pod == pod and each.status.status == ASSIGNED for each in found)

    await until(seen)


def attach(sandbox: Sandbox, own: ManagedIdentity) -> None:
    """Attach an identity to the first node's VM without MIC, as the creator of the node might have done."""
    machine = sandbox.azure.arm.vm(sandbox.vm_id(NODE))
    key = own.resource_id.lower()
    machine.user_assigned[key] = own
    machine.attached_at[key] = float("-inf")
    machine.types |= {USER}


def identity(name: str, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """Return an AzureIdentity."""
    return _document("AzureIdentity", name, namespace, spec)


def binding(name: str, selector: str, namespace: str = "default") -> dict[str, Any]:
    """Return an AzureIdentityBinding for the identity of the same name."""
    return _document("AzureIdentityBinding", name, namespace, {"azureIdentity": name, "selector": selector})


def exception(name: str, labels: Mapping[str, str], namespace: str = "default") -> dict[str, Any]:
    """Return an AzurePodIdentityException."""
    return _document("AzurePodIdentityException", name, namespace, {"podLabels": dict(labels)})


def secret(name: str, values: Mapping[str, bytes], namespace: str = "default") -> dict[str, Any]:
    """Return a Secret."""
    data = {key: base64.b64encode(value).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data}


def _document(kind: str, name: str, namespace: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


async def ask(
    sandbox: Sandbox,
    context: ExecutionContext,
    *,
    path: str = TOKEN,
    headers: Mapping[str, str] | None = None,
    **query: str,
) -> Answer:
    """Send a request to the metadata endpoint from *context* and return the answer.

    The default is the usual token request.
    """
    asked = {"resource": AUDIENCE, **query} if path == TOKEN else query
    host = sandbox.metadata_url(NODE).removeprefix("http://")
    return await ask_at(sandbox, context, host, f"{path}?{urlencode(asked)}" if asked else path, headers)


async def ask_at(
    sandbox: Sandbox, context: ExecutionContext, host: str, target: str, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a request for *target* to *host* from *context* and return the answer."""
    source = context.environment.get("SANDBOX_SOURCE_ADDRESS", "")
    given = json.dumps([host, source, target, {"Metadata": "true"} if headers is None else dict(headers)])
    process = await asyncio.create_subprocess_exec(
        *context.command([sys.executable, "-c", _ASK, given]),
        stdout=asyncio.subprocess.PIPE,
        env=sandbox.commands.inherited(),
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return Answer(*json.loads(output))
