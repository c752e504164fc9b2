"""Pods whose network this module creates like two kinds of CNI plugin, and whose status it writes like a kubelet.

These pods run only the requests of a test. The tests check NMI's behaviour when an address passes from one network
namespace to another before the API server reports it, or without a report.
"""

import asyncio
import http.client
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from typing import Any, NamedTuple, TypeVar

import msgspec

from podidentity.kube.client import MERGE_PATCH
from podidentity.resources import BINDING_LABEL, PODS
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.namespaces import Namespaces
from podidentity_sandbox.network import METADATA_ADDRESS
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from podidentity_sandbox.tokens import read_claims
from tests.support.identity_requests import METADATA, NODE, TOKEN_TARGET, attach, bind, start_again
from tests.support.waiting import LIMIT_SECONDS

T = TypeVar("T")

SUBNET = "10.201.0"
GATEWAY = f"{SUBNET}.1"
BRIDGE = "cni0"
PATH = TOKEN_TARGET
HOLD_SECONDS = 1.0
"""Limit that --max-hold sets for the hold of requests from suspended pods."""


class Answer(NamedTuple):
    """Answer that a pod received."""

    status: int
    client_id: str
    """The client id in the token; empty if there is no token."""


class Net:
    """Network of the pods on the node. *kind* is `bridge` or `point-to-point`."""

    def __init__(self, namespaces: Namespaces, kind: str) -> None:
        self._namespaces = namespaces
        self.bridged = kind == "bridge"
        self._serial = 0
        self.veths: dict[str, str] = {}
        """The node's end of each pod's veth pair."""

    def start(self) -> None:
        """Create the part of the network that all pods share."""
        if self.bridged:
            self.on_node(
                f"link add {BRIDGE} type bridge", f"address add {GATEWAY}/24 dev {BRIDGE}", f"link set {BRIDGE} up"
            )
        else:
            self.on_node(f"address add {GATEWAY}/32 dev lo")

    def on_node(self, *commands: str) -> None:
        """Run `ip` commands inside the node."""
        self._namespaces.inside(NODE, commands)

    def add(self, sandbox_id: str, address: str) -> None:
        """Create a pod sandbox with the address, as CNI ADD does."""
        self.prepare(sandbox_id, address)
        self.on_node(self._attach(sandbox_id, address))

    def hand_over(self, former: str, successor: str, address: str) -> None:
        """Remove *former* and attach the prepared *successor* in one batch, faster than any CNI plugin."""
        self.on_node(f"link delete {self.veths.pop(former)}", self._attach(successor, address))
        self._namespaces.delete(f"pod-{former}")

    def prepare(self, sandbox_id: str, address: str) -> None:
        """Create a pod sandbox that is complete except for its connection to the node's network."""
        self._serial += 1
        veth = self.veths[sandbox_id] = f"veth{self._serial}"
        name = f"pod-{sandbox_id}"
        self._namespaces.create(name)
        self._namespaces.link(name, "eth0", NODE, veth)
        routes = [] if self.bridged else [f"route add {GATEWAY} dev eth0"]
        length = 24 if self.bridged else 32
        commands = [f"address add {address}/{length} dev eth0", *routes, f"route add default via {GATEWAY}"]
        self._namespaces.inside(name, commands)

    def _attach(self, sandbox_id: str, address: str) -> str:
        veth = self.veths[sandbox_id]
        return f"link set {veth} master {BRIDGE}" if self.bridged else f"route add {address}/32 dev {veth}"

    def call(self, sandbox_id: str, function: Callable[[], T]) -> T:
        """Call *function* in a separate thread inside the pod and return its result. Blocks."""
        return self._namespaces.call(f"pod-{sandbox_id}", function)

    def remove(self, sandbox_id: str) -> None:
        """Remove a pod sandbox, as CNI DEL does. Its address is free afterwards."""
        self.on_node(f"link delete {self.veths.pop(sandbox_id)}")
        self._namespaces.delete(f"pod-{sandbox_id}")


def connection() -> http.client.HTTPConnection:
    """Return an open connection to the metadata endpoint. Call it inside a pod."""
    made = http.client.HTTPConnection(METADATA_ADDRESS, 80, timeout=LIMIT_SECONDS)
    made.connect()
    return made


def ask_on(connection: http.client.HTTPConnection) -> Answer:
    """Send another request on *connection* and return the response."""
    connection.request("GET", PATH, headers=dict(METADATA))
    response = connection.getresponse()
    text = response.read()
    granted = response.status == 200
    return Answer(response.status, read_claims(json.loads(text)["access_token"])["appid"] if granted else "")


def _ask() -> Answer:
    with closing(connection()) as made:
        return ask_on(made)


class Node:
    """Node with the real NMI in managed mode, and with pods that the test creates."""

    def __init__(self, sandbox: Sandbox, net: Net) -> None:
        self.sandbox = sandbox
        self.net = net

    async def identity(self, name: str) -> ManagedIdentity:
        """Create an identity and bind it to pods with the label *name*."""
        own = await bind(self.sandbox, name)
        attach(self.sandbox, own)
        return own

    async def add(self, sandbox_id: str, address: str) -> None:
        await asyncio.to_thread(self.net.add, sandbox_id, address)

    async def remove(self, sandbox_id: str) -> None:
        await asyncio.to_thread(self.net.remove, sandbox_id)

    async def ask(self, sandbox_id: str) -> Answer:
        """Send a request on a new connection. NMI holds those of suspended pods."""
        return await asyncio.to_thread(self.net.call, sandbox_id, _ask)

    async def create(self, name: str, label: str) -> None:
        """Create the pod's object in the state in which the scheduler leaves it."""
        await self.sandbox.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "labels": {BINDING_LABEL: label}},
                "spec": {"containers": [{"name": "main", "image": "pause"}], "nodeName": NODE},
            }
        )

    async def report(self, name: str, address: str) -> None:
        """Report, as the kubelet does, that the pod runs at the address since now."""
        await self.status(name, running(address))

    async def status(self, name: str, status: Mapping[str, Any]) -> None:
        body = msgspec.json.encode({"status": status})
        path = PODS.path("default", name, "status")
        await self.sandbox.cluster.client.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def delete(self, name: str) -> None:
        """Delete the pod's object without a grace period."""
        body = b'{"gracePeriodSeconds":0}'
        await self.sandbox.cluster.client.request("DELETE", PODS.path("default", name), body=body)


def running(address: str) -> dict[str, Any]:
    """Return the status of a pod that has just started."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": moment}],
        "containerStatuses": [
            {
                "name": "main",
                "image": "pause",
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": moment}},
            }
        ],
    }


@asynccontextmanager
async def nodes(kind: str, *flags: str) -> AsyncIterator[Node]:
    """Yield a node whose pods have a network of that kind. *flags* are additional flags of NMI."""
    settings = SandboxSettings(
        namespaces=True,
        programs=False,
        run_pods=False,
        schedule=False,
        environment=os.environ,
        nmi_flags=["--operation-mode=managed", "--forceNamespaced", f"--max-hold={HOLD_SECONDS}s", *flags],
    )
    async with Sandbox(settings) as sandbox:
        assert isinstance(sandbox.network, Fabric)
        net = Net(sandbox.network.namespaces, kind)
        await asyncio.to_thread(net.start)
        await start_again(sandbox)
        yield Node(sandbox, net)
