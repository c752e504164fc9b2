"""Reports of the real kernel about 250 pods behind a bridge, or behind one route each, and the evidence in them.

One namespace is the node, and one contains the ends of all pods' cables: a network stack for each pod would only be
slower.
"""

import asyncio
import operator
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

import pytest
from typing_extensions import override

from nmi.identity.address_evidence import AddressEvidence, Evidence, EvidenceKind, _Attachment
from nmi.node.network_monitor import (
    READS,
    REST_SECONDS,
    WAKES,
    WINDOW_SECONDS,
    NetworkMonitor,
    NetworkSource,
    NetworkUpdate,
    RouteNetlinkSocket,
)
from nmi.node.rtnetlink import Message
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
DEADLINE = 30.0
NODE, POD_ENDS = "node", "ends"


def address(number: int) -> str:
    return f"10.77.{number // 200}.{number % 200 + 2}"


class NodeNetwork:
    """The node's network, and the known state of it."""

    def __init__(self, namespaces: Namespaces) -> None:
        self.namespaces = namespaces
        self.evidence = AddressEvidence()
        self.found: list[Evidence] = []
        self.handed_on = 0
        self.largest = 0
        self.network_monitor = NetworkMonitor(make=self._make, dump_gap_seconds=0.2)

    def network_changed(self, messages: Iterable[Message]) -> None:
        reported = list(messages)
        self.handed_on += 1
        self.largest = max(self.largest, len(reported))
        self.found += self.evidence.apply(reported)

    def network_listed(self, messages: Iterable[Message]) -> None:
        self.found += self.evidence.replace(messages)

    def on_node(self, *commands: str) -> None:
        self.namespaces.inside(NODE, commands)

    def of_pods(self, *commands: str) -> None:
        self.namespaces.inside(POD_ENDS, commands)

    def attachment(self, number: int) -> _Attachment:
        """Return the known state of a pod's address."""
        return self.evidence._attachments[socket.inet_aton(address(number))]

    def connect_and_talk(self, numbers: Iterable[int]) -> None:
        """The node sends each pod a packet, for which it has to find it, and each pod answers ARP."""
        targets = [address(number) for number in numbers]

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
                for target in targets:
                    sending.sendto(b"x", (target, 9))

        self.namespaces.call(NODE, send)

    def _make(self) -> NetworkSource:
        return self.namespaces.call(NODE, lambda: Inside(self.namespaces))


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
        arp = {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}
        made.set_sysctl(POD_ENDS, arp)
        yield made
    finally:
        made.delete_all()


def cable(namespaces: Namespaces, number: int) -> str:
    return (
        f"link add v{number} netns {{{NODE}}} address 06:00:00:01:00:{number:02x} type veth "
        f"peer name e{number} netns {{{POD_ENDS}}} address 06:00:00:00:00:{number:02x}"
    )


@pytest.fixture(params=["bridge", "point-to-point"])
async def network(request: pytest.FixtureRequest, namespaces: Namespaces) -> AsyncIterator[NodeNetwork]:
    bridged = request.param == "bridge"
    made = NodeNetwork(namespaces)
    everyone = range(PODS)

    def build() -> None:
        namespaces.configure(cable(namespaces, number) for number in everyone)
        if bridged:
            made.on_node("link add cni0 type bridge ageing_time 100", "address add 10.77.0.1/16 dev cni0")
            made.on_node("link set cni0 up")
        else:
            made.on_node("address add 10.77.0.1/32 dev lo")
        attach = "link set v{0} master cni0 up" if bridged else "link set v{0} up"
        made.on_node(*(attach.format(number) for number in everyone))
        made.of_pods(
            *(f"address add {address(number)}/32 dev e{number}" for number in everyone),
            *(f"link set e{number} up" for number in everyone),
            *([] if bridged else [f"route add 10.77.0.1/32 dev e{number} metric {number}" for number in everyone]),
        )
        if bridged:
            made.of_pods("route add 10.77.0.1/32 dev e0")
        else:
            made.on_node(*(f"route add {address(number)}/32 dev v{number}" for number in everyone))

    await asyncio.to_thread(build)
    async with listening(made):
        for number in everyone:
            made.evidence.track(address(number))
        await met(made)
        yield made


@asynccontextmanager
async def listening(network: NodeNetwork) -> AsyncIterator[None]:
    task = asyncio.create_task(network.network_monitor.run(network))
    try:
        await until(lambda: network.network_monitor.listening)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def met(network: NodeNetwork) -> None:
    """Let the node learn the link-layer address and port of every pod. Concurrent ARP requests would be lost."""
    bridged = "cni0" in network.evidence._links.values()

    async def unknown() -> list[int]:
        left = [
            number
            for number in range(PODS)
            if not (it := network.attachment(number)).link_layer or (bridged and not it.port)
        ]
        for start in range(0, len(left), 25):
            await asyncio.to_thread(network.connect_and_talk, left[start : start + 25])
            await asyncio.sleep(0.05)
        return left

    await until(unknown, "the node learns every address", holds=operator.not_)


async def noticed(network: NodeNetwork) -> None:
    """Wait until all earlier reports have been read: a marker change after them has been."""
    name = f"mark{time.monotonic_ns() % 10**9}"
    await asyncio.to_thread(network.on_node, f"link add {name} type bridge")
    await until(lambda: name in network.evidence._links.values())


async def test_250_pods_are_not_disturbed_and_a_removed_pod_is_noticed(network: NodeNetwork) -> None:
    bridged = "cni0" in network.evidence._links.values()
    for _ in range(2):
        await asyncio.to_thread(network.on_node, "neigh flush all")
        await asyncio.to_thread(network.connect_and_talk, range(PODS))
        await noticed(network)
    # The kernel removes failed neighbours, and a bridge's learned entries after a second.
    changes = [f"link set v{number} mtu {1400 + number % 2}" for number in range(PODS)]
    changes += ["link set v1 down", "link set v1 up", "link set v2 down", "link set v2 name renamed"]
    changes += ["link set renamed up", "link set v3 txqueuelen 77", "link set v4 alias x"]
    changes += ["link set v7 promisc on"]
    if bridged:
        changes += ["link set v5 type bridge_slave cost 10 hairpin on", "link set cni0 type bridge stp_state 1"]
        changes += ["link set cni0 type bridge stp_state 0", "link set v6 nomaster", "link set v6 master cni0"]
    else:
        changes += [f"route add {address(1)}/32 dev v1", f"route add {address(2)}/32 dev renamed"]
        changes += [f"route replace {address(number)}/32 dev v{number}" for number in range(10, 60)]
        changes += [f"route add {address(7)}/32 dev v8 metric 500", f"route del {address(7)}/32 dev v8 metric 500"]
    await asyncio.to_thread(network.on_node, *changes)
    await asyncio.to_thread(network.of_pods, "link set e9 down", "link set e9 up")
    await asyncio.to_thread(network.connect_and_talk, range(10, PODS))
    await noticed(network)
    assert network.found == []
    await asyncio.to_thread(network.on_node, "link delete v42")
    await until(lambda: len(network.found) == 1)
    await asyncio.to_thread(network.on_node, f"link set v17 netns {network.namespaces.full_name(POD_ENDS)}")
    await until(lambda: len(network.found) == 2)
    await until(lambda: network.attachment(23).settled)
    await asyncio.to_thread(network.of_pods, "link set e23 address 06:00:00:00:01:17")
    await asyncio.to_thread(network.on_node, "neigh flush all")
    await asyncio.to_thread(network.connect_and_talk, [23])
    await until(lambda: len(network.found) == 3)
    assert [(each.address, each.kind) for each in network.found] == [
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
        before, begun = network.handed_on, time.monotonic()
        await until(lambda: network.handed_on - before > 100)
        lasted = time.monotonic() - begun
        assert network.handed_on - before <= (lasted / WINDOW_SECONDS + 2) * (WAKES + WINDOW_SECONDS / REST_SECONDS)
        assert network.largest <= 2 * READS
        await asyncio.to_thread(network.on_node, "link delete v42")
        await until(lambda: any(each.address == address(42) for each in network.found))
        assert {each.address for each in network.found} == {address(42)}, "the flood names no pod's address"
    finally:
        flood.kill()
        await flood.wait()


@pytest.mark.parametrize("network", ["point-to-point"], indirect=True)
async def test_arp_for_another_pods_address_is_no_evidence_if_each_pod_has_its_route(network: NodeNetwork) -> None:
    await asyncio.to_thread(forge, network, 5, 42, 2)
    await asyncio.to_thread(network.connect_and_talk, [42])
    await noticed(network)
    assert network.found == []


@pytest.mark.parametrize("network", ["bridge"], indirect=True)
async def test_arp_for_another_pods_address_suspends_that_pod_behind_a_bridge(network: NodeNetwork) -> None:
    """Otherwise NMI would serve the forging pod as the other one. docs/security.md states the countermeasure."""
    await asyncio.to_thread(network.connect_and_talk, [42])
    await until(lambda: network.attachment(42).settled)
    await asyncio.to_thread(forge, network, 5, 42, 40)
    await until(lambda: bool(network.found))
    assert {(each.address, each.kind) for each in network.found} == {(address(42), EvidenceKind.LINK_LAYER_CHANGED)}


def forge(network: NodeNetwork, sender: int, victim: int, times: int) -> None:
    """ARP requests of one pod that carry another's address; the kernel accepts one a second."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as raw:
            raw.bind((f"e{sender}", 0x0806))
            mac = bytes((6, 0, 0, 0, 0, sender))
            head = b"\xff" * 6 + mac + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"
            for _ in range(times):
                raw.send(head + mac + socket.inet_aton(address(victim)) + bytes(6) + bytes((10, 77, 0, 1)))
                time.sleep(0.05)

    network.namespaces.call(POD_ENDS, send)


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
            lost, found = False, list[Evidence]()
            update = NetworkUpdate([], more=True)
            while update.more:
                update = source.read()
                lost = lost or update.lost
                found += evidence.apply(update.messages)
            assert lost
            return found + evidence.replace(namespaces.call(NODE, source.dump))
        finally:
            source.close()

    assert await asyncio.to_thread(lose) == [Evidence(address(42), EvidenceKind.INTERFACE_REMOVED, "v42")]
