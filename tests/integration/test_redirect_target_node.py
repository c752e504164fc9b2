"""The redirect target `node`: pods get tokens without route_localnet, and nothing else reaches NMI there.

Each refused connection has an accepted neighbour. Excluded: connections without a conntrack entry, and adopted ones
(tests/native/test_node_listener_behind_nat.py), handovers (test_handover_of_rules.py).
"""

import asyncio
import os
import shlex
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from podidentity.resources import PODS
from podidentity_sandbox.fabric import FABRIC, Fabric
from podidentity_sandbox.namespaces import Namespaces
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import NMI_METRICS_PORT, NMI_PORT, NMI_PROBE_PORT, Settings
from tests.integration.conftest import ROOT
from tests.integration.connection_attempts import RESET, TOKEN_TARGET, attempt_from
from tests.integration.identity_requests import NODE, Answer, ask, ask_at, run_bound_pod
from tests.integration.node_tables import on_node, saved
from tests.support.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

FLAGS = ("--redirect-target=node", "--host-token-types=0,1,2")
ADDRESS = "10.199.0.2"
"""Of the first node."""
SERVICE, NODE_PORT = "10.96.0.9", 30080
HOST_TOKEN = "/host/token/?resource=https%3A%2F%2Fmanagement.azure.com%2F"
HOST_HEADERS = {"podns": "default", "podname": "bound"}
OTHER_NODE = "node-1"


@dataclass(frozen=True, slots=True)
class Site:
    """A sandbox of two nodes with a pod each; the first node has no route_localnet."""

    sandbox: Sandbox
    pod: ExecutionContext
    namespace: str
    """Of the pod."""
    other: str
    """The namespace of the pod on the other node."""

    async def attempt(self, namespace: str, host: str, port: int, target: str = TOKEN_TARGET, **more: str) -> str:
        headers = HOST_HEADERS if target == HOST_TOKEN else None
        return await attempt_from(self.sandbox, namespace, host, port, target=target, headers=headers, **more)

    async def page(self, port: int, path: str) -> Answer:
        return await ask_at(self.sandbox, self.sandbox.contexts[NODE], f"127.0.0.1:{port}", path)

    async def closed_unread(self) -> int:
        state = (await self.page(NMI_PROBE_PORT, "/debug/state")).body
        count: int = state["server"]["lane"]["closed_unread"]
        return count

    async def metric(self, name: str) -> int:
        lines = (await self.page(NMI_METRICS_PORT, "/metrics")).text.splitlines()
        return int(float(next(line for line in lines if line.startswith(f"{name} ")).split()[1]))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    settings = Settings(nodes=2, namespaces=True, environment=os.environ, nmi_flags=FLAGS)
    async with Sandbox(settings) as sandbox:
        assert isinstance(sandbox.network, Fabric)
        sandbox.network.namespaces.set_sysctl(NODE, {"net/ipv4/conf/all/route_localnet": "0"})
        _, pod = await run_bound_pod(sandbox, "bound")
        namespace = f"pod-{(await sandbox.cluster.client.get(PODS, 'default', 'bound')).metadata.uid}"
        yield Site(sandbox, pod, namespace, await pod_of_other_node(sandbox))


async def pod_of_other_node(sandbox: Sandbox) -> str:
    """Run a pod with the same identity on the other node. Return its namespace once it has a token."""
    metadata = {"name": "distant", "namespace": "default", "labels": {"aadpodidbinding": "bound"}}
    spec = {"containers": [{"name": "main", "image": "pause"}], "nodeName": OTHER_NODE}
    await sandbox.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    namespace = ""

    async def has_token() -> bool:
        nonlocal namespace
        pod = await sandbox.cluster.client.get(PODS, "default", "distant")
        namespace = f"pod-{pod.metadata.uid}"
        return bool(pod.status.pod_ip) and await attempt_from(sandbox, namespace, METADATA_ADDRESS, 80) == "200"

    await until(has_token)
    return namespace


async def test_a_pod_gets_its_token_without_route_localnet(site: Site) -> None:
    answer = await ask(site.sandbox, site.pod)
    assert answer.status == 200, answer.text
    assert any(rule.endswith(f"-j DNAT --to-destination {ADDRESS}:{NMI_PORT}") for rule in saved(site.sandbox))
    assert "[+]redirect ok" in (await site.page(NMI_PROBE_PORT, "/readyz")).text
    state = (await site.page(NMI_PROBE_PORT, "/debug/state")).body
    assert (state["node_address"], state["plumbing"]["target"]) == (ADDRESS, "node")


async def test_a_direct_connection_to_the_nodes_address_is_closed_and_the_redirected_one_is_served(site: Site) -> None:
    before = await site.closed_unread()
    for namespace in (site.namespace, site.other, NODE, OTHER_NODE, FABRIC):
        assert await site.attempt(namespace, ADDRESS, NMI_PORT) == RESET, namespace
    assert await site.attempt(NODE, ADDRESS, NMI_PORT, source="127.0.0.1") == RESET
    assert await site.closed_unread() == before + 6

    async def is_counted() -> bool:  # the page is up to a second old
        return await site.metric("aadpodidentity_nmi_lane_closed_unread_total") == before + 6

    await until(is_counted)
    for namespace in (site.namespace, site.other):
        assert await site.attempt(namespace, METADATA_ADDRESS, 80) == "200", namespace


async def test_a_connection_that_a_service_or_node_port_translates_to_the_port_is_closed(site: Site) -> None:
    to = ("-j", "DNAT", "--to-destination", f"{ADDRESS}:{NMI_PORT}")
    service = ("-d", SERVICE, "-p", "tcp", "--dport", "80", *to)
    node_port = ("-d", ADDRESS, "-p", "tcp", "--dport", str(NODE_PORT), *to)
    for rule in (service, node_port):
        await asyncio.to_thread(on_node, site.sandbox, "iptables-nft", "-t", "nat", "-A", "PREROUTING", *rule)
    try:
        assert await site.attempt(site.namespace, SERVICE, 80) == RESET
        assert await site.attempt(site.namespace, ADDRESS, NODE_PORT) == RESET
        assert await site.attempt(FABRIC, ADDRESS, NODE_PORT) == RESET
        assert await site.attempt(site.namespace, METADATA_ADDRESS, 80) == "200"
    finally:
        for rule in (service, node_port):
            await asyncio.to_thread(on_node, site.sandbox, "iptables-nft", "-t", "nat", "-D", "PREROUTING", *rule)


async def test_the_documented_firewall_rule_closes_the_port_for_others_only(site: Site) -> None:
    pages = (ROOT / "docs" / "operations.md").read_text()
    commands = [shlex.split(line) for line in pages.splitlines() if "close-nmi-port" in line]
    assert [command[:3] for command in commands] == [["nft", "add", each] for each in ("table", "chain", "rule")]
    for command in commands:
        await asyncio.to_thread(on_node, site.sandbox, *command)
    try:
        before = await site.closed_unread()
        assert await site.attempt(FABRIC, ADDRESS, NMI_PORT) == RESET
        assert await site.attempt(site.namespace, ADDRESS, NMI_PORT) == RESET
        assert await site.closed_unread() == before
        assert await site.attempt(site.namespace, METADATA_ADDRESS, 80) == "200"
    finally:
        await asyncio.to_thread(on_node, site.sandbox, "nft", "delete", "table", "ip", "close-nmi-port")


async def test_host_tokens_are_for_processes_of_the_node_on_loopback_only(site: Site) -> None:
    assert await site.attempt(NODE, "127.0.0.1", NMI_PORT, HOST_TOKEN) == "200"
    assert await site.attempt(NODE, ADDRESS, NMI_PORT, HOST_TOKEN) == RESET
    assert await site.attempt(NODE, ADDRESS, NMI_PORT, HOST_TOKEN, source="127.0.0.1") == RESET
    assert await site.attempt(site.namespace, ADDRESS, NMI_PORT, HOST_TOKEN) == RESET
    assert await site.attempt(site.namespace, METADATA_ADDRESS, 80, HOST_TOKEN) == "403"


async def test_a_request_of_the_node_on_loopback_is_answered_as_without_the_target(site: Site) -> None:
    assert await site.attempt(NODE, "127.0.0.1", NMI_PORT) == "404"


async def test_a_flood_of_direct_connections_does_not_stop_a_pod_from_getting_tokens(site: Site) -> None:
    assert isinstance(site.sandbox.network, Fabric)
    namespaces, stopping = site.sandbox.network.namespaces, asyncio.Event()
    flood = asyncio.create_task(flooding(namespaces, stopping))
    before = await site.closed_unread()
    statuses = [await site.attempt(site.namespace, METADATA_ADDRESS, 80) for _ in range(50)]
    stopping.set()
    opened = await flood
    assert set(statuses) == {"200"}
    assert opened > 100
    assert await site.closed_unread() - before > 100
    log = (site.sandbox.folder / f"nmi-{NODE}.log").read_text()
    assert log.count("were closed unread") <= 2


async def flooding(namespaces: Namespaces, stopping: asyncio.Event) -> int:
    """Open direct connections from another machine until *stopping*. Return their number."""
    opened = 0
    while not stopping.is_set():
        opened += await asyncio.to_thread(namespaces.call, FABRIC, open_some)
    return opened


def open_some() -> int:
    opened = 0
    for _ in range(200):
        with socket.socket() as sock:
            sock.settimeout(5)
            if sock.connect_ex((ADDRESS, NMI_PORT)) == 0:
                opened += 1
    return opened


async def test_nmi_is_not_ready_while_the_node_does_not_have_its_address(site: Site) -> None:
    """The last test: the node loses its address, and gets it again."""

    async def reports(text: str) -> bool:
        return text in (await site.page(NMI_PROBE_PORT, "/readyz")).text

    await asyncio.to_thread(on_node, site.sandbox, "ip", "address", "delete", f"{ADDRESS}/30", "dev", "uplink")
    await until(lambda: reports(f"{ADDRESS}, to which pods are redirected, is no longer an address of this node"))
    for words in (
        ("address", "add", f"{ADDRESS}/30", "dev", "uplink"),
        ("route", "add", "default", "via", "10.199.0.1"),
    ):
        await asyncio.to_thread(on_node, site.sandbox, "ip", *words)
    await until(lambda: reports("[+]redirect ok"))
    assert await site.attempt(site.namespace, METADATA_ADDRESS, 80) == "200"
