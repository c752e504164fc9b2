"""Reports of the real kernel about 250 pods behind a bridge, or behind one route each, and the evidence in them.

One namespace is the node, and one contains the ends of all pods' cables: a network stack for each pod would only be
slower.
"""

import asyncio
import itertools
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
from typing_extensions import override

from nmi.identity.address_evidence import AddressEvidence, Evidence, EvidenceKind, _Attachment
from nmi.node.neighbour_discovery import resolve_neighbour
from nmi.node.network_monitor import NetworkMonitor, NetworkUpdate, RouteNetlinkSocket
from nmi.node.rtnetlink import Message, Unresolved
from podidentity_sandbox.namespaces import Namespaces
from tests.support.waiting import until

pytestmark = pytest.mark.root

PODS = 250
# ARP requests for the node's address, each from another address and another link-layer address.
FLOOD = """
import itertools, socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
raw.bind((sys.argv[1], 0x0806))
print("flooding", flush=True)
for number in itertools.count():
    made = number.to_bytes(4, "big")
    mac, sender = b"\\x0a\\x00" + made, bytes((10, 78 + number % 100)) + made[2:]
    frame = b"\\xff" * 6 + mac + b"\\x08\\x06\\x00\\x01\\x08\\x00\\x06\\x04\\x00\\x01"
    try:
        raw.send(frame + mac + sender + bytes(6) + bytes((10, 77, 0, 1)))
    except OSError:
        pass
"""
NODE, POD_ENDS = "node", "ends"
HEAD = b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"
"""Of an ARP request, from its type in the Ethernet frame to its operation."""


def address(number: int) -> str:
    return f"10.77.{number // 200}.{number % 200 + 2}"


class NodeNetwork:
    """The node's network, and the known state of it."""

    def __init__(self, namespaces: Namespaces, *, bridged: bool) -> None:
        self.namespaces = namespaces
        self.bridged = bridged
        self.evidence = AddressEvidence()
        self.changes: list[Evidence] = []
        self.reports = 0
        self.monitor = NetworkMonitor(
            make=lambda: namespaces.call(NODE, lambda: Inside(namespaces)), dump_gap_seconds=0.2
        )
        self._marks = itertools.count()

    def network_changed(self, messages: Iterable[Message]) -> None:
        self.reports += 1
        self.changes += self.evidence.apply(messages)

    def network_listed(self, messages: Iterable[Message]) -> None:
        self.changes += self.evidence.replace(messages)

    async def on_node(self, *commands: str) -> None:
        await asyncio.to_thread(self.namespaces.inside, NODE, commands)

    async def of_pods(self, *commands: str) -> None:
        await asyncio.to_thread(self.namespaces.inside, POD_ENDS, commands)

    def attachment(self, number: int) -> _Attachment:
        """Return the known state of a pod's address."""
        return self.evidence._attachments[socket.inet_aton(address(number))]

    async def send_to(self, numbers: Iterable[int]) -> None:
        """The node sends each pod a packet, for which it has to find it, and each pod answers ARP."""

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
                for number in numbers:
                    sending.sendto(b"x", (address(number), 9))

        await asyncio.to_thread(self.namespaces.call, NODE, send)

    async def forge(self, sender: int, victim: int) -> None:
        """An ARP request of one pod that carries another's address; the kernel accepts one a second."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as raw:
                raw.bind((f"e{sender}", 0x0806))
                mac = bytes((6, 0, 0, 0, 0, sender))
                claimed = socket.inet_aton(address(victim))
                raw.send(b"\xff" * 6 + mac + HEAD + mac + claimed + bytes(6) + bytes((10, 77, 0, 1)))

        await asyncio.to_thread(self.namespaces.call, POD_ENDS, send)

    async def unmet(self) -> list[int]:
        """Let the node learn addresses and ports of some pods: requests for all at once would be lost.

        Return those that it did not know before.
        """
        at = [self.attachment(number) for number in range(PODS)]
        left = [
            number
            for number, attachment in enumerate(at)
            if not attachment.link_layer or (self.bridged and not attachment.port)
        ]
        await self.send_to(left[:25])
        return left

    async def noticed(self) -> None:
        """Wait until all earlier reports have been read: a marker change after them has been."""
        name = f"mark{next(self._marks)}"
        await self.on_node(f"link add {name} type bridge")
        await until(lambda: name in self.evidence._links.values())


class Inside(RouteNetlinkSocket):
    """The source of another namespace."""

    def __init__(self, namespaces: Namespaces) -> None:
        super().__init__()
        self._namespaces = namespaces

    @override
    def dump(self) -> list[Message]:
        return self._namespaces.call(NODE, super().dump)


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    made = Namespaces(uuid.uuid4().hex[:6])
    try:
        for name in (NODE, POD_ENDS):
            made.create(name)
        # Each address answers ARP on its own cable alone.
        made.set_sysctl(POD_ENDS, {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"})
        yield made
    finally:
        made.delete_all()


@pytest.fixture(params=["bridge", "point-to-point"])
async def network(request: pytest.FixtureRequest, namespaces: Namespaces) -> AsyncIterator[NodeNetwork]:
    made = NodeNetwork(namespaces, bridged=request.param == "bridge")
    everyone = range(PODS)
    cables = [
        f"link add v{number} address 06:00:00:01:00:{number:02x} type veth "
        f"peer name e{number} netns {namespaces.full_name(POD_ENDS)} address 06:00:00:00:00:{number:02x}"
        for number in everyone
    ]
    await asyncio.to_thread(namespaces.inside, NODE, cables)
    of_pods = [f"address add {address(number)}/32 dev e{number}" for number in everyone]
    of_pods += [f"link set e{number} up" for number in everyone]
    if made.bridged:
        bridge = ["link add cni0 type bridge ageing_time 100", "address add 10.77.0.1/16 dev cni0", "link set cni0 up"]
        await made.on_node(*bridge, *(f"link set v{number} master cni0 up" for number in everyone))
        await made.of_pods(*of_pods, "route add 10.77.0.1/32 dev e0")
    else:
        ends = [f"link set v{number} up" for number in everyone]
        routes = [f"route add {address(number)}/32 dev v{number}" for number in everyone]
        await made.on_node("address add 10.77.0.1/32 dev lo", *ends)
        await made.of_pods(*of_pods, *(f"route add 10.77.0.1/32 dev e{number} metric {number}" for number in everyone))
        await made.on_node(*routes)
    running = asyncio.create_task(made.monitor.run(made))
    try:
        await until(lambda: made.monitor.listening)
        for number in everyone:
            made.evidence.track(address(number))
        await until(made.unmet, "the node learns every address", holds=lambda left: left == [])
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_250_pods_are_not_disturbed_and_a_removed_pod_is_noticed(network: NodeNetwork) -> None:
    for _ in range(2):
        await network.on_node("neigh flush all")
        await network.send_to(range(PODS))
        await network.noticed()
    # The kernel removes failed neighbours, and a bridge's learned entries after a second.
    changes = [f"link set v{number} mtu {1400 + number % 2}" for number in range(PODS)]
    changes += ["link set v1 down", "link set v1 up", "link set v2 down", "link set v2 name renamed"]
    changes += ["link set renamed up", "link set v3 txqueuelen 77", "link set v4 alias x"]
    changes += ["link set v7 promisc on"]
    if network.bridged:
        changes += ["link set v5 type bridge_slave cost 10 hairpin on", "link set cni0 type bridge stp_state 1"]
        changes += ["link set cni0 type bridge stp_state 0", "link set v6 nomaster", "link set v6 master cni0"]
    else:
        changes += [f"route add {address(1)}/32 dev v1", f"route add {address(2)}/32 dev renamed"]
        changes += [f"route replace {address(number)}/32 dev v{number}" for number in range(10, 60)]
        changes += [f"route add {address(7)}/32 dev v8 metric 500", f"route del {address(7)}/32 dev v8 metric 500"]
    await network.on_node(*changes)
    await network.of_pods("link set e9 down", "link set e9 up")
    await network.send_to(range(10, PODS))
    await network.noticed()
    assert network.changes == []
    await network.on_node("link delete v42")
    await until(lambda: len(network.changes) == 1)
    await network.on_node(f"link set v17 netns {network.namespaces.full_name(POD_ENDS)}")
    await until(lambda: len(network.changes) == 2)
    await until(lambda: network.attachment(23).settled)
    await network.of_pods("link set e23 address 06:00:00:00:01:17")
    await network.on_node("neigh flush all")
    await network.send_to([23])
    await until(lambda: len(network.changes) == 3)
    assert [(evidence.address, evidence.kind) for evidence in network.changes] == [
        (address(42), EvidenceKind.INTERFACE_REMOVED),
        (address(17), EvidenceKind.INTERFACE_REMOVED),
        (address(23), EvidenceKind.LINK_LAYER_CHANGED),
    ]


@pytest.mark.parametrize("network", ["bridge"], indirect=True)
async def test_a_pod_that_floods_the_node_with_arp_delays_no_evidence(network: NodeNetwork) -> None:
    command = network.namespaces.command(POD_ENDS, [sys.executable, "-c", FLOOD, "e5"])
    flood = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert flood.stdout is not None
    try:
        assert await flood.stdout.readline() == b"flooding\n"
        before = network.reports
        await until(lambda: network.reports - before > 100)
        await network.on_node("link delete v42")
        await until(lambda: network.changes)
        assert {evidence.address for evidence in network.changes} == {address(42)}, "the flood names no pod's address"
    finally:
        flood.kill()
        await flood.wait()


@pytest.mark.parametrize("network", ["point-to-point"], indirect=True)
async def test_arp_for_another_pods_address_is_no_evidence_if_each_pod_has_its_route(network: NodeNetwork) -> None:
    await network.forge(5, 42)
    await network.forge(5, 42)
    await network.send_to([42])
    await network.noticed()
    assert network.changes == []


@pytest.mark.parametrize("network", ["bridge"], indirect=True)
async def test_arp_for_another_pods_address_suspends_that_pod_behind_a_bridge(network: NodeNetwork) -> None:
    """Otherwise NMI would serve the forging pod as the other one. docs/security.md states the countermeasure."""

    async def forged() -> list[Evidence]:
        await network.forge(5, 42)
        return network.changes

    await network.send_to([42])
    await until(lambda: network.attachment(42).settled)
    await until(forged)
    assert {(evidence.address, evidence.kind) for evidence in network.changes} == {
        (address(42), EvidenceKind.LINK_LAYER_CHANGED)
    }


def test_a_request_for_an_interface_that_does_not_exist_is_ignored(namespaces: Namespaces) -> None:
    namespaces.call(NODE, lambda: resolve_neighbour(Unresolved(bytes((10, 77, 0, 2)), 2**31 - 1)))


async def test_changes_during_lost_reports_are_found_by_a_list(namespaces: Namespaces) -> None:
    def change(*commands: str) -> None:
        namespaces.inside(NODE, commands)

    def lose() -> list[Evidence]:
        change("link add v42 type bridge", "link add v43 type bridge", "link set v42 up", "link set v43 up")
        change(f"route add {address(42)}/32 dev v42", f"route add {address(43)}/32 dev v43")
        source, evidence = namespaces.call(NODE, RouteNetlinkSocket), AddressEvidence()
        try:
            assert evidence.replace(namespaces.call(NODE, source.dump)) == []
            evidence.track(address(42))
            evidence.track(address(43))
            change(*(f"link set v43 alias {number}" for number in range(4000)))
            change("link delete v42")
            lost, changes = False, list[Evidence]()
            update = NetworkUpdate([], more=True)
            while update.more:
                update = source.read()
                lost = lost or update.lost
                changes += evidence.apply(update.messages)
            assert lost
            return changes + evidence.replace(namespaces.call(NODE, source.dump))
        finally:
            source.close()

    assert await asyncio.to_thread(lose) == [Evidence(address(42), EvidenceKind.INTERFACE_REMOVED, "v42")]
