"""Tokens of pods with the real MIC and NMI: grants, refusals, and the delay of a revocation.

One sandbox serves the whole module, in namespaces and on loopback: each test creates its own identity and pods.
Excluded: the demo's walk, and what NMI does to the node's rules.
"""

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, BINDINGS, GROUP, PODS, Kind
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.settings import Settings
from podidentity_sandbox.tokens import read_claims
from tests.sandbox.cloud.conftest import eventually, pod

pytestmark = [pytest.mark.programs, pytest.mark.asyncio(loop_scope="module")]

# Common to the programs inside the pods: a connection from the pod's address to the metadata address.
IMMEDIATE_SECONDS = 10.0
"""A request that waits for an identity is held for 45 s."""
PRELUDE = """
import http.client, json, os, sys, threading, time
HOST = os.environ["ASK"]
SOURCE = (os.environ["SANDBOX_SOURCE_ADDRESS"], 0) if "SANDBOX_SOURCE_ADDRESS" in os.environ else None
PATH = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"
def connect():
    return http.client.HTTPConnection(HOST, timeout=30, source_address=SOURCE)
def ask(connection, headers={"Metadata": "true"}):
    connection.request("GET", PATH, headers=headers)
    response = connection.getresponse()
    return response.status, response.headers["Content-Type"], json.loads(response.read())
def say(value):
    print(json.dumps(value), flush=True)
"""


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["loopback", pytest.param("namespaces", marks=pytest.mark.root)]
)
async def shared_sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    settings = Settings(nodes=2, namespaces=request.param == "namespaces", environment=os.environ)
    async with Sandbox(settings) as sandbox:
        yield sandbox


async def assign(shared_sandbox: Sandbox, name: str) -> tuple[ManagedIdentity, ExecutionContext]:
    """An identity, its binding and a pod for it, all called *name*; returns once MIC has assigned it."""
    context = await place_of(shared_sandbox, pod(name), {"aadpodidbinding": name})
    identity = await bind(shared_sandbox, name)

    async def assigned() -> bool:
        objects = await shared_sandbox.cluster.client.list(ASSIGNED_IDENTITIES)
        return any(found.spec.pod == name and found.status.status == ASSIGNED for found in objects)

    await eventually(assigned, shared_sandbox)
    return identity, context


async def bind(shared_sandbox: Sandbox, name: str) -> ManagedIdentity:
    identity = shared_sandbox.azure.directory.add_identity(identity_id(name))
    group = {"apiVersion": f"{GROUP}/v1"}
    meta = {"name": name, "namespace": "default"}
    spec = {"type": 0, "resourceID": identity.resource_id, "clientID": identity.client_id}
    await shared_sandbox.cluster.apply({**group, "kind": "AzureIdentity", "metadata": meta, "spec": spec})
    spec = {"azureIdentity": name, "selector": name}
    await shared_sandbox.cluster.apply({**group, "kind": "AzureIdentityBinding", "metadata": meta, "spec": spec})
    return identity


async def place_of(shared_sandbox: Sandbox, document: dict[str, Any], labels: dict[str, str]) -> ExecutionContext:
    """Where the pod runs, once it does; it is on node-0."""
    document["metadata"]["labels"] = labels
    document["spec"]["nodeName"] = "node-0"
    await shared_sandbox.cluster.apply(document)
    name = document["metadata"]["name"]

    async def running() -> bool:
        return (await shared_sandbox.cluster.client.get(PODS, "default", name)).status.phase == "Running"

    await eventually(running, shared_sandbox)
    context = shared_sandbox.cluster.kubelets["node-0"].context("default", name)
    assert context is not None
    return context


async def start(shared_sandbox: Sandbox, context: ExecutionContext, code: str) -> asyncio.subprocess.Process:
    asked = shared_sandbox.metadata_url("node-0").removeprefix("http://")
    return await asyncio.create_subprocess_exec(
        *context.command([sys.executable, "-c", PRELUDE + code]),
        stdout=asyncio.subprocess.PIPE,
        env={**shared_sandbox.commands.inherited(), **context.environment, "ASK": asked},
    )


async def run_in_pod(shared_sandbox: Sandbox, context: ExecutionContext, code: str) -> Any:
    """Return the output of the program, run by Python inside the pod."""
    process = await start(shared_sandbox, context, code)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


async def test_a_pod_gets_a_token_whose_claims_name_its_identity(shared_sandbox: Sandbox) -> None:
    identity, context = await assign(shared_sandbox, "claims")
    status, kind, body = await run_in_pod(shared_sandbox, context, "say(ask(connect()))")
    assert (status, kind) == (200, "application/json")
    claims = read_claims(body["access_token"])
    assert (claims["appid"], claims["oid"]) == (identity.client_id, identity.object_id)
    assert body["client_id"] == identity.client_id


async def test_a_request_without_the_header_is_refused_immediately(shared_sandbox: Sandbox) -> None:
    context = await place_of(shared_sandbox, pod("headerless"), {"aadpodidbinding": "unbound-label"})
    code = "began = time.monotonic(); say([*ask(connect(), {}), time.monotonic() - began])"
    status, kind, body, seconds = await run_in_pod(shared_sandbox, context, code)
    assert (status, kind, body["error"]) == (400, "application/json", "invalid_request")
    assert seconds < IMMEDIATE_SECONDS


async def test_a_pod_without_the_label_is_refused_immediately(shared_sandbox: Sandbox) -> None:
    context = await place_of(shared_sandbox, pod("unlabelled"), {})
    code = "began = time.monotonic(); say([*ask(connect()), time.monotonic() - began])"
    status, _, body, seconds = await run_in_pod(shared_sandbox, context, code)
    assert (status, body["error_description"]) == (400, "Identity not found")
    assert seconds < IMMEDIATE_SECONDS


async def test_an_early_request_is_held_until_the_identity_is_assigned(shared_sandbox: Sandbox) -> None:
    context = await place_of(shared_sandbox, pod("early"), {"aadpodidbinding": "early"})
    asking = await start(shared_sandbox, context, "say(ask(connect()))")
    identity = await bind(shared_sandbox, "early")
    output, _ = await asking.communicate()
    status, _, body = json.loads(output)
    assert (status, body["client_id"]) == (200, identity.client_id)


async def test_a_hundred_concurrent_first_requests_cause_one_call_to_imds(shared_sandbox: Sandbox) -> None:
    identity, context = await assign(shared_sandbox, "hundred")
    before = len(shared_sandbox.azure.imds.token_calls)
    code = """
gate, statuses = threading.Barrier(100), []
def one():
    connection = connect()
    connection.connect()
    gate.wait()
    statuses.append(ask(connection)[0])
threads = [threading.Thread(target=one) for _ in range(100)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
say(statuses)
"""
    assert await run_in_pod(shared_sandbox, context, code) == [200] * 100
    calls = shared_sandbox.azure.imds.token_calls[before:]
    assert [call.query["client_id"] for call in calls] == [identity.client_id]


ASK_UNTIL_IT_ENDS = """
connection = connect()
began = time.monotonic()
status, _, body = ask(connection)
say([status, began])
connection.sock.settimeout(5)
while status == 200:
    asked = time.monotonic()
    try:
        status, _, body = ask(connection)
    except TimeoutError:
        status = 0  # held: NMI waits for an identity that may come again
    say([status, asked])
    time.sleep(0.02)
"""


async def test_a_deleted_binding_ends_tokens_on_an_open_connection_before_azure_changes(
    shared_sandbox: Sandbox,
) -> None:
    identity, context = await assign(shared_sandbox, "unbound")
    arm = shared_sandbox.azure.arm
    machine = arm.vm(shared_sandbox.vm_id("node-0"))
    held = arm.faults.add(ResponseFault(hold=True, method="PATCH", path=machine.resource_id, times=math.inf))
    try:
        assert await _seconds_of_grants_after(shared_sandbox, context, BINDINGS, "unbound") < IMMEDIATE_SECONDS
        assert identity.resource_id.lower() in machine.identities
    finally:
        arm.faults.remove(held)


async def test_a_deleted_pod_gets_no_tokens_on_an_open_connection(shared_sandbox: Sandbox) -> None:
    _, context = await assign(shared_sandbox, "removed")
    assert await _seconds_of_grants_after(shared_sandbox, context, PODS, "removed") < IMMEDIATE_SECONDS


async def _seconds_of_grants_after(
    shared_sandbox: Sandbox, context: ExecutionContext, kind: Kind[Any], name: str
) -> float:
    """Return how long after the deletion of an object the pod still got a token."""
    process = await start(shared_sandbox, context, ASK_UNTIL_IT_ENDS)
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())[0] == 200
    began = time.monotonic()
    await shared_sandbox.cluster.client.delete(kind, "default", name)
    output, _ = await process.communicate()
    assert process.returncode == 0
    answers = [json.loads(line) for line in output.splitlines()]
    assert answers[-1][0] in {0, 400, 404}
    return max((asked for status, asked in answers if status == 200), default=began) - began


async def test_the_python_sdk_gets_its_token_with_no_override(shared_sandbox: Sandbox) -> None:
    identity, context = await assign(shared_sandbox, "sdk")
    if not shared_sandbox.redirects:
        assert context.environment["SANDBOX_SOURCE_ADDRESS"] == context.address
        return  # the SDK has no setting for the source address
    code = (
        "from azure.identity import ManagedIdentityCredential\n"
        "say(ManagedIdentityCredential().get_token('https://management.azure.com/.default').token)\n"
    )
    token = await run_in_pod(shared_sandbox, context, code)
    assert read_claims(token)["appid"] == identity.client_id
