"""The redirect target `node`: pods get tokens without route_localnet, and nothing else reaches NMI there.

Each refused connection has an accepted neighbour. Another machine whose packets for 169.254.169.254 the node redirects
gets no token, with either target.

Excluded: connections that a Service or a node port translates, without a conntrack entry, and adopted ones
(tests/contract/native/test_node_listener_behind_nat.py), floods (tests/contract/native/test_node_listener.py),
handovers (test_handover_of_rules.py).
"""

import asyncio
import os
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from podidentity.resources import PODS
from podidentity_sandbox.fabric import FABRIC, Fabric
from podidentity_sandbox.namespaces import Namespaces
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import NMI_PORT, NMI_PROBE_PORT, SandboxSettings
from tests.support.checkout import ROOT
from tests.support.identity_requests import (
    METADATA,
    NODE,
    REFUSED,
    TOKEN_TARGET,
    ask,
    attempt,
    metric,
    on_node,
    page,
    run_bound_pod,
    run_pod,
    saved,
    state,
)
from tests.support.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

ADDRESS = "10.199.0.2"
"""Of the first node."""
HOST_TOKEN = TOKEN_TARGET.replace("/metadata/identity/oauth2/token", "/host/token/")
OTHER_NODE = "node-1"
MACHINE = "machine"
"""A namespace with a cable to the first node, as a machine of the same subnet has one."""
MACHINE_ADDRESS, NODE_SIDE = "10.201.0.1", "10.201.0.2"


@dataclass(frozen=True, slots=True)
class Site:
    """A sandbox of two nodes with a pod each, and a machine that routes packets for IMDS through the first node."""

    sandbox: Sandbox
    pod: ExecutionContext
    namespace: str
    """Of the pod."""
    other: str
    """The namespace of the pod on the other node."""

    @property
    def namespaces(self) -> Namespaces:
        assert isinstance(self.sandbox.network, Fabric)
        return self.sandbox.network.namespaces

    async def attempt(self, namespace: str, host: str, port: int, target: str = TOKEN_TARGET, source: str = "") -> str:
        """Send a request from a namespace. Return its status, REFUSED, or the name of another error."""
        headers = {"podns": "default", "podname": "bound"} if target == HOST_TOKEN else METADATA
        return await asyncio.to_thread(
            self.namespaces.call, namespace, lambda: attempt(host, port, target, headers, source)
        )

    async def from_machine(self, target: str = TOKEN_TARGET, source: str = MACHINE_ADDRESS) -> str:
        return await self.attempt(MACHINE, METADATA_ADDRESS, 80, target, source)

    async def gets_token(self) -> bool:
        return await self.attempt(self.namespace, METADATA_ADDRESS, 80) == "200"

    async def readiness(self) -> str:
        return await page(self.sandbox, NMI_PROBE_PORT, "/readyz")

    async def closed_unread(self) -> int:
        count: int = (await state(self.sandbox))["server"]["lane"]["closed_unread"]
        return count

    async def run(self, *words: str) -> None:
        """Run a command on the first node."""
        await asyncio.to_thread(on_node, self.sandbox, *words)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["node"])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    flags = (f"--redirect-target={request.param}", "--host-token-types=0,1,2")
    async with Sandbox(SandboxSettings(nodes=2, namespaces=True, environment=os.environ, nmi_flags=flags)) as sandbox:
        _, pod = await run_bound_pod(sandbox, "bound")
        await run_pod(sandbox, "distant", {"aadpodidbinding": "bound"}, node=OTHER_NODE)
        bound, distant = [await sandbox.cluster.client.get(PODS, "default", name) for name in ("bound", "distant")]
        site = Site(sandbox, pod, f"pod-{bound.metadata.uid}", f"pod-{distant.metadata.uid}")
        if request.param == "node":
            site.namespaces.set_sysctl(NODE, {"net/ipv4/conf/all/route_localnet": "0"})
        await until(lambda: site.attempt(site.other, METADATA_ADDRESS, 80), holds="200".__eq__)
        site.namespaces.create(MACHINE)
        site.namespaces.link(MACHINE, "eth0", NODE, "side")
        site.namespaces.inside(NODE, [f"address add {NODE_SIDE}/30 dev side"])
        addresses = [f"address add {MACHINE_ADDRESS}/30 dev eth0", f"address add {pod.address}/32 dev lo"]
        site.namespaces.inside(MACHINE, [*addresses, f"route add {METADATA_ADDRESS} via {NODE_SIDE}"])
        yield site


@pytest.mark.parametrize("site", ["loopback", "node"], indirect=True)
async def test_a_machine_whose_packets_the_node_routes_gets_no_token(site: Site) -> None:
    assert await site.gets_token()
    calls = len(site.sandbox.azure.imds.calls)
    assert await site.from_machine() == "404"
    assert await site.from_machine(HOST_TOKEN) == "403"
    assert await site.from_machine(source=site.pod.address) == "TimeoutError", "the node sends its answers to the pod"
    assert len(site.sandbox.azure.imds.calls) == calls


async def test_a_pod_gets_its_token_without_route_localnet(site: Site) -> None:
    response = await ask(site.sandbox, site.pod)
    assert response.status == 200, response.text
    assert any(rule.endswith(f"-j DNAT --to-destination {ADDRESS}:{NMI_PORT}") for rule in saved(site.sandbox))
    assert "[+]redirect ok" in await site.readiness()
    shown = await state(site.sandbox)
    assert (shown["node_address"], shown["plumbing"]["target"]) == (ADDRESS, "node")


async def test_a_direct_connection_to_the_nodes_address_is_closed_and_the_redirected_one_is_served(site: Site) -> None:
    before = await site.closed_unread()
    for namespace in (site.namespace, site.other, NODE, OTHER_NODE, FABRIC):
        assert await site.attempt(namespace, ADDRESS, NMI_PORT) == REFUSED, namespace
    assert await site.attempt(NODE, ADDRESS, NMI_PORT, source="127.0.0.1") == REFUSED
    assert await site.closed_unread() == before + 6
    counted = "aadpodidentity_nmi_lane_closed_unread_total"
    await until(lambda: metric(site.sandbox, counted), "the page, up to a second old", holds=float(before + 6).__eq__)
    for namespace in (site.namespace, site.other):
        assert await site.attempt(namespace, METADATA_ADDRESS, 80) == "200", namespace


async def test_the_documented_firewall_rule_closes_the_port_for_others_only(site: Site) -> None:
    pages = (ROOT / "docs" / "operations.md").read_text()
    commands = [shlex.split(line) for line in pages.splitlines() if "close-nmi-port" in line]
    assert [command[:3] for command in commands] == [["nft", "add", kind] for kind in ("table", "chain", "rule")]
    for command in commands:
        await site.run(*command)
    try:
        before = await site.closed_unread()
        assert await site.attempt(FABRIC, ADDRESS, NMI_PORT) == REFUSED
        assert await site.attempt(site.namespace, ADDRESS, NMI_PORT) == REFUSED
        assert await site.closed_unread() == before
        assert await site.gets_token()
    finally:
        await site.run("nft", "delete", "table", "ip", "close-nmi-port")


async def test_host_tokens_are_for_processes_of_the_node_on_loopback_only(site: Site) -> None:
    assert await site.attempt(NODE, "127.0.0.1", NMI_PORT, HOST_TOKEN) == "200"
    assert await site.attempt(NODE, ADDRESS, NMI_PORT, HOST_TOKEN) == REFUSED
    assert await site.attempt(NODE, ADDRESS, NMI_PORT, HOST_TOKEN, source="127.0.0.1") == REFUSED
    assert await site.attempt(site.namespace, ADDRESS, NMI_PORT, HOST_TOKEN) == REFUSED
    assert await site.attempt(site.namespace, METADATA_ADDRESS, 80, HOST_TOKEN) == "403"
    assert await site.attempt(NODE, "127.0.0.1", NMI_PORT) == "404", "a request for no pod"


async def test_nmi_is_not_ready_while_the_node_does_not_have_its_address(site: Site) -> None:
    """The last test: the node loses its address, and gets it again."""
    lost = f"{ADDRESS}, to which pods are redirected, is no longer an address of this node"
    await site.run("ip", "address", "delete", f"{ADDRESS}/30", "dev", "uplink")
    await until(site.readiness, holds=lambda text: lost in text)
    await site.run("ip", "address", "add", f"{ADDRESS}/30", "dev", "uplink")
    await site.run("ip", "route", "add", "default", "via", "10.199.0.1")
    await until(site.readiness, holds=lambda text: "[+]redirect ok" in text)
    assert await site.gets_token()
