"""Helpers of the tests with the real programs: documents to apply, requests of a pod or the node, and its rules."""

import asyncio
import base64
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, GROUP, PODS
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.machines import USER
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.processes import Program
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.tokens import read_claims
from tests.support.waiting import LIMIT_SECONDS, until

AUDIENCE = "https://management.azure.com/"
TOKEN = "/metadata/identity/oauth2/token"
TOKEN_TARGET = f"{TOKEN}?resource=https%3A%2F%2Fmanagement.azure.com%2F"
METADATA: Mapping[str, str] = {"Metadata": "true"}
REFUSED = "refused"
"""The connection was reset, immediately or later."""
ATTEMPT_SECONDS = 20.0
CLIENT_SECONDS = 30.0
NODE = "node-0"
JUMP = "-A PREROUTING -j aad-metadata"
REDIRECT = (
    "-A aad-metadata ! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 "
    "-j DNAT --to-destination 127.0.0.1:2579"
)
REJECT = "-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"

_ASK = """
import http.client, json, os, sys
host, source, path, headers, seconds = json.loads(sys.argv[1])
connection = http.client.HTTPConnection(host, timeout=seconds, source_address=(source, 0) if source else None)
connection.request("GET", path, headers=headers)
response = connection.getresponse()
print(json.dumps([response.status, dict(response.headers), response.read().decode()]))
"""


@dataclass(frozen=True, slots=True)
class Response:
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


def attempt(
    host: str, port: int, target: str = TOKEN_TARGET, headers: Mapping[str, str] = METADATA, source: str = ""
) -> str:
    """Send a request on a new connection. Return its status, REFUSED, or the name of another error. Blocks."""
    address = (source, 0) if source else None
    connection = http.client.HTTPConnection(host, port, timeout=ATTEMPT_SECONDS, source_address=address)
    try:
        connection.request("GET", target, headers=dict(headers))
        response = connection.getresponse()
        response.read()
    except ConnectionError:
        return REFUSED
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    else:
        return str(response.status)
    finally:
        connection.close()


async def page(sandbox: Sandbox, port: int, path: str, node: str = NODE) -> str:
    """Return a page that a program of the node serves on loopback."""

    def fetch() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(sandbox.network.call_on_node, node, fetch)


async def state(sandbox: Sandbox) -> Any:
    """Return NMI's /debug/state."""
    return json.loads(await page(sandbox, sandbox.nmis[NODE].probe_port, "/debug/state"))


async def metric(sandbox: Sandbox, name: str) -> float:
    """Return the sum of the series of NMI's metric; *name* may include labels. NMI reuses the page for a second."""
    text = await page(sandbox, sandbox.nmis[NODE].metrics_port, "/metrics")
    lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    assert lines, name
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def request_held(sandbox: Sandbox) -> None:
    """Wait until NMI holds a request. The metric would be up to a second old, and NMI may hold it for 1.5 s only."""
    await until(lambda: state(sandbox), "a held request", holds=lambda shown: shown["feed"]["held"] == 1)


async def end(program: Program, number: signal.Signals = signal.SIGTERM) -> int:
    """Send *program* a signal, wait for its end, and return its exit code."""
    program.signal(number)
    async with asyncio.timeout(LIMIT_SECONDS):
        return await program.wait()


async def logged(sandbox: Sandbox, text: str, times: int = 1) -> None:
    """Wait until the log of the node's NMIs contains *text* at least *times* times."""
    log = sandbox.folder / f"nmi-{NODE}.log"
    await until(lambda: asyncio.to_thread(log.read_text), text, holds=lambda lines: lines.count(text) >= times)


async def start_again(sandbox: Sandbox) -> None:
    """Start NMI, and wait until it is active."""
    await sandbox.start_nmi(NODE)
    await sandbox.nmi_active(NODE)


async def run_pod(
    sandbox: Sandbox,
    name: str,
    labels: Mapping[str, str],
    *,
    namespace: str = "default",
    node: str = NODE,
    **metadata: Any,
) -> ExecutionContext:
    """Create a pod on a node. Return its execution context once the pod runs."""
    await sandbox.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": dict(labels), **metadata},
            "spec": {"containers": [{"name": "main", "image": "pause"}], "nodeName": node},
        }
    )
    await until(
        lambda: sandbox.cluster.client.get(PODS, namespace, name), holds=lambda pod: pod.status.phase == "Running"
    )
    context = sandbox.cluster.kubelets[node].context(namespace, name)
    assert context is not None
    return context


async def bind(sandbox: Sandbox, name: str) -> ManagedIdentity:
    """Create an identity *name* for the pods with the label *name*."""
    identity_ = sandbox.azure.directory.add_identity(identity_id(name))
    await sandbox.cluster.apply(identity(name, type=0, resourceID=identity_.resource_id, clientID=identity_.client_id))
    await sandbox.cluster.apply(binding(name, name))
    return identity_


async def run_bound_pod(sandbox: Sandbox, name: str) -> tuple[ManagedIdentity, ExecutionContext]:
    """Create an identity, its binding and a pod, all named *name*. Return once MIC has assigned the identity."""
    identity_ = await bind(sandbox, name)
    context = await run_pod(sandbox, name, {"aadpodidbinding": name})
    await until(
        lambda: sandbox.cluster.client.list(ASSIGNED_IDENTITIES),
        "the identity is assigned",
        holds=lambda assigned: any(
            object_.spec.pod == name and object_.status.status == ASSIGNED for object_ in assigned
        ),
    )
    return identity_, context


def attach(sandbox: Sandbox, own: ManagedIdentity) -> None:
    """Attach an identity to the first node's VM without MIC, as the creator of the node might have done."""
    machine = sandbox.azure.arm.vm(sandbox.vm_id(NODE))
    key = own.resource_id.lower()
    machine.user_assigned[key] = own
    machine.attached_at[key] = float("-inf")
    machine.types |= {USER}


def on_node(sandbox: Sandbox, *command: str) -> str:
    """Run *command* on the node and return its output."""
    assert isinstance(sandbox.network, Fabric)
    entered = ["ip", "netns", "exec", sandbox.network.namespaces.full_name(NODE), *command]
    return subprocess.run(entered, check=True, capture_output=True, text=True, timeout=60).stdout


def saved(sandbox: Sandbox, backend: str = "nft") -> list[str]:
    """Return the rules of every table, without counters and comments."""
    lines = on_node(sandbox, f"iptables-{backend}-save").splitlines()
    return [re.sub(r" ?\[\d+:\d+\]", "", line) for line in lines if not line.startswith("#")]


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
    seconds: float = CLIENT_SECONDS,
    **query: str,
) -> Response:
    """Send a request to the metadata endpoint from *context* and return the response. The client disconnects after
    *seconds*.

    The default is the usual token request.
    """
    parameters = {"resource": AUDIENCE, **query} if path == TOKEN else query
    host = sandbox.metadata_url(NODE).removeprefix("http://")
    target = f"{path}?{urlencode(parameters)}" if parameters else path
    return await ask_at(sandbox, context, host, target, headers, seconds=seconds)


async def ask_at(
    sandbox: Sandbox,
    context: ExecutionContext,
    host: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    seconds: float = CLIENT_SECONDS,
) -> Response:
    """Send a request for *target* to *host* from *context* and return the response."""
    source = context.environment.get("SANDBOX_SOURCE_ADDRESS", "")
    given = json.dumps([host, source, target, {"Metadata": "true"} if headers is None else dict(headers), seconds])
    process = await asyncio.create_subprocess_exec(
        *context.command([sys.executable, "-c", _ASK, given]),
        stdout=asyncio.subprocess.PIPE,
        env=sandbox.commands.inherited(),
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return Response(*json.loads(output))
