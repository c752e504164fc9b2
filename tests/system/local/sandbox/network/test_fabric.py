"""Connections between nodes, pods, IMDS and ARM in network namespaces: addresses, routes, leftovers."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.namespaces import NAMESPACES, owner
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext
from podidentity_sandbox.serving import free_ports

pytestmark = pytest.mark.root


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    made = Fabric("f1")
    made.start()
    made.add_node("node-0")
    made.add_node("node-1")
    yield made
    made.stop()
    assert not list(NAMESPACES.glob(f"{owner()}-f1-*"))


def connect(context: ExecutionContext, host: str, port: int) -> str:
    """The source address with which a program in *context* reaches *host*; empty when it does not."""
    asking = f"import socket; print(socket.create_connection(({host!r}, {port}), 10).getsockname()[0])"
    done = subprocess.run(context.command([sys.executable, "-c", asking]), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def test_pods_and_nodes_reach_imds_with_different_addresses(fabric: Fabric) -> None:
    pods = {node: fabric.add_pod(node, f"pod-of-{node}") for node in ("node-0", "node-1")}
    listener = fabric.metadata_socket("node-0")
    assert listener is not None
    assert fabric.metadata_socket("node-1") is None
    with listener:
        for node, pod in pods.items():
            assert connect(pod, METADATA_ADDRESS, 80) == pod.address
            networks = fabric.metadata_sources(node)
            assert any(pod.address in map(str, network.hosts()) for network in networks)
            other = fabric.metadata_sources("node-1" if node == "node-0" else "node-0")
            assert not any(pod.address in map(str, network.hosts()) for network in other)


def test_pods_reach_the_sandboxs_services_and_each_other_but_not_this_machine(fabric: Fabric) -> None:
    one, two = fabric.add_pod("node-0", "a"), fabric.add_pod("node-1", "b")
    (listener,) = fabric.pod_sockets(4443)
    with listener:
        assert connect(one, fabric.pod_facing_address, 4443) == one.address
    with fabric.namespaces.listening("pod-b", two.address, 80):
        assert connect(one, two.address, 80) == one.address
    interfaces = subprocess.run(one.command(["ip", "-br", "link"]), capture_output=True, text=True, check=True).stdout
    assert [line.split("@")[0].split()[0] for line in interfaces.splitlines()] == ["lo", "eth0"]


def test_a_removed_pods_address_can_be_reused(fabric: Fabric) -> None:
    first = fabric.add_pod("node-0", "a")
    assert fabric.add_pod("node-0", "a") == first
    fabric.remove_pod("node-0", "a")
    fabric.remove_pod("node-0", "a")
    assert fabric.add_pod("node-0", "b").address == first.address


def test_a_nodes_loopback_socket_is_reachable_only_on_the_node(fabric: Fabric) -> None:
    (port,) = free_ports(1)  # on which no program of this machine listens
    (listener,) = fabric.node_sockets("node-0", port)
    with listener:
        node = ExecutionContext("", tuple(fabric.namespaces.command("node-0", ())))
        assert connect(node, "127.0.0.1", port) == "127.0.0.1"
        assert connect(ExecutionContext(""), "127.0.0.1", port) == ""
        assert fabric.call_on_node("node-0", lambda: listener.getsockname()[1]) == port
