"""The redirect target `node`: NMI listens on the node's address and serves only connections that the node redirected.

Every other client of that address is disconnected before NMI reads a byte: other machines, pods of other nodes, clients
of a Service that targets NMI's port, and processes of the node itself. The node redirects packets that another machine
sends to IMDS through it like those of a pod; that machine gets no token.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from podidentity_sandbox.azure import DEMO_IDENTITY
from podidentity_sandbox.network import METADATA_ADDRESS
from tests.system.node import client
from tests.system.node.bed import Bed
from tests.system.node.data_planes import bed_options, redirect_values
from tests.system.node.manifests import demo, pod
from tests.system.node.node import OUTSIDE
from tests.system.node.options import NodeAddresses
from tests.system.node.processes import wait_for

pytestmark = pytest.mark.long

PORT: Final = 2579
"""NMI's port."""
NODE_ADDRESS: Final = NodeAddresses(0).node
"""The address of the first node, on which its NMI listens."""
NODE_PORT: Final = 30579
CLUSTER_ADDRESS: Final = "10.96.25.79"
SERVICE_PORT: Final = 80
SERVICE: Final = "nmi-of-node-0"
TOKEN: Final = f"GET {client.token_path()} HTTP/1.1"
HOST_TOKEN: Final = "GET /host/token/?resource=https://vault.azure.net HTTP/1.1"
NEIGHBOUR: Final = "neighbour"
"""The namespace of a machine with a cable to the first node."""
NEIGHBOUR_ADDRESS, NODE_SIDE = "10.95.0.1", "10.95.0.2"
SILENT_SECONDS: Final = 4
ATTEMPT: Final = f"""
import socket, sys
host, port, request = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
try:
    connection = socket.create_connection((host, port), {SILENT_SECONDS})
except ConnectionResetError:
    sys.exit(print("closed"))  # reset before the program has seen that the connection exists
except ConnectionRefusedError:
    sys.exit(print("refused"))
except OSError:
    sys.exit(print("unreachable"))
try:
    if request:
        connection.sendall(request + b"\\r\\nHost: imds\\r\\nMetadata: true\\r\\nConnection: close\\r\\n\\r\\n")
    print("answered" if connection.recv(1) else "closed")
except TimeoutError:
    print("open")
except ConnectionError:
    print("closed")
"""
"""Connects, and sends a request line if it is not empty. `open`: nothing happens for SILENT_SECONDS."""


def attempt(bed: Bed, source: str, host: str, port: int, line: str = "") -> str:
    """Return the result of an attempt of another machine, of the first node itself, or of the pod of this name."""
    words = ("-c", ATTEMPT, host, str(port), line)
    if source == "another machine":
        command = bed.namespaces.command(OUTSIDE, [sys.executable, *words])
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    if source == "the node":
        return bed.nodes[0].run(sys.executable, *words).strip()
    return bed.kubectl("exec", source, "--", "python3", *words).strip()


def service(address: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return a Service of type NodePort whose only endpoint is NMI's port at this address."""
    port = {"port": SERVICE_PORT, "targetPort": PORT, "nodePort": NODE_PORT, "protocol": "TCP", "name": "nmi"}
    labels = {"kubernetes.io/service-name": SERVICE}
    return (
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": "default"},
            "spec": {"type": "NodePort", "clusterIP": CLUSTER_ADDRESS, "ports": [port]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": SERVICE, "namespace": "default", "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "nmi", "port": PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        },
    )


@pytest.fixture(scope="module", params=["nftables", "iptables-nft"])
def nodes(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """Two nodes with the target `node`, a pod with an identity on each, and a Service that targets NMI of the first."""
    with Bed(bed_options(request.param, "ptp", nodes=2)) as bed:
        values = redirect_values("auto", "node")
        values["nmi"]["extraArgs"] = ["--host-token-types=0"]
        bed.install(values)
        pods = [pod(f"on-{node.name}", selector=DEMO_IDENTITY, nodeName=node.name) for node in bed.nodes]
        bed.apply(*demo(), *pods, *service(NODE_ADDRESS))
        bed.wait_for_pods("on-node-0", "on-node-1")
        for node in bed.nodes:
            client.eventually(bed, f"on-{node.name}", DEMO_IDENTITY)
        yield bed


def test_nmi_waits_for_the_request_of_a_redirected_connection(nodes: Bed) -> None:
    # The tests below expect that other connections without a request are closed at once.
    assert attempt(nodes, "on-node-0", METADATA_ADDRESS, 80) == "open"
    assert attempt(nodes, "on-node-0", METADATA_ADDRESS, 80, TOKEN) == "answered"


@pytest.mark.parametrize("request_line", ["", TOKEN, HOST_TOKEN], ids=["silent", "token", "host-token"])
@pytest.mark.parametrize(
    ("source", "host", "port"),
    [
        *((source, NODE_ADDRESS, PORT) for source in ("another machine", "the node", "on-node-0", "on-node-1")),
        *((source, CLUSTER_ADDRESS, SERVICE_PORT) for source in ("on-node-0", "on-node-1")),
    ],
)
def test_every_other_client_of_nmis_port_is_disconnected(
    nodes: Bed, source: str, host: str, port: int, request_line: str
) -> None:
    assert attempt(nodes, source, host, port, request_line) in {"closed", "refused"}


@pytest.mark.parametrize("request_line", ["", TOKEN], ids=["silent", "token"])
@pytest.mark.parametrize("number", [0, 1])
def test_another_machine_that_connects_to_a_node_port_is_disconnected(
    nodes: Bed, number: int, request_line: str
) -> None:
    # kube-proxy answers for the port of the Service, so that an attempt that reaches nothing proves nothing.
    at = NodeAddresses(number).node
    wait_for(
        lambda: attempt(nodes, "another machine", at, NODE_PORT, request_line) == "closed",
        20,
        "the NodePort does not lead to NMI",
    )


def test_a_process_of_the_node_reaches_the_host_token_endpoint_on_loopback_and_imds(nodes: Bed) -> None:
    assert attempt(nodes, "the node", "127.0.0.1", PORT, HOST_TOKEN) == "answered"
    node = nodes.nodes[0]
    instance = f"http://{METADATA_ADDRESS}/metadata/instance/compute?api-version=2021-02-01"
    assert node.name in node.run("curl", "--silent", "--header", "Metadata: true", instance)


def routed_request(bed: Bed, source: str) -> str:
    """Return the status of the response to a token request that the first node routes; 000 after 10 seconds."""
    words = ("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "10")
    url = f"http://{METADATA_ADDRESS}{client.token_path()}"
    command = bed.namespaces.command(NEIGHBOUR, [*words, "--interface", source, "--header", "Metadata: true", url])
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout


def test_a_machine_whose_packets_the_node_routes_gets_no_token(nodes: Bed) -> None:
    name = nodes.nodes[0].name
    pods_address = nodes.kubectl("get", "pod", "on-node-0", "--output=jsonpath={.status.podIP}")
    nodes.namespaces.create(NEIGHBOUR)
    nodes.namespaces.link(NEIGHBOUR, "eth0", name, "side0")
    nodes.namespaces.inside(name, [f"address add {NODE_SIDE}/30 dev side0"])
    nodes.namespaces.inside(
        NEIGHBOUR,
        [
            f"address add {NEIGHBOUR_ADDRESS}/30 dev eth0",
            f"address add {pods_address}/32 dev lo",
            f"route add {METADATA_ADDRESS} via {NODE_SIDE}",
        ],
    )
    begin = time.time()
    assert routed_request(nodes, NEIGHBOUR_ADDRESS) == "404"
    assert nodes.azure.leaked(begin) == []
    # The node sends its responses to a forged address of a pod to the pod.
    assert routed_request(nodes, pods_address) == "000"
