"""The redirect target `node`: NMI listens on the node's address and serves only connections that the node redirected.

Every other client of that address is disconnected before NMI reads a byte: other machines, pods of other nodes, clients
of a Service that targets NMI's port, and processes of the node itself. The node redirects packets that another machine
sends to IMDS through it like those of a pod; that machine gets no token.
"""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY, identity_id
from podidentity_sandbox.network import METADATA_ADDRESS
from tests.system.node import client
from tests.system.node.bed import OUTSIDE, Bed
from tests.system.node.connections import ANSWERED, CLOSED, OPEN, REFUSED, from_namespace, from_node, from_pod
from tests.system.node.data_planes import bed_options, redirect_values
from tests.system.node.manifests import binding, identity, pod
from tests.system.node.processes import wait_for

pytestmark = pytest.mark.long

PORT: Final = 2579
"""NMI's port."""
NODE_PORT: Final = 30579
CLUSTER_ADDRESS: Final = "10.96.25.79"
SERVICE_PORT: Final = 80
SERVICE: Final = "nmi-of-node-0"
REJECTED: Final = frozenset({CLOSED, REFUSED})
TOKEN: Final = f"GET {client.TOKEN}?api-version=2018-02-01&resource={client.RESOURCE} HTTP/1.1"
HOST_TOKEN: Final = "GET /host/token/?resource=https://vault.azure.net HTTP/1.1"
NEIGHBOUR: Final = "neighbour"
"""The namespace of a machine with a cable to the first node."""
NEIGHBOUR_ADDRESS, NODE_SIDE = "10.95.0.1", "10.95.0.2"
TOKEN_URL: Final = f"http://{METADATA_ADDRESS}{client.TOKEN}?api-version=2018-02-01&resource={client.RESOURCE}"
NO_ANSWER: Final = "000"
Attempt = Callable[[Bed, str], str]
"""Connects, and sends a request line if it is not empty. Returns the result."""


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
        labels = {"aadpodidbinding": DEMO_IDENTITY}
        bed.apply(
            identity(DEMO_IDENTITY, identity_id(DEMO_IDENTITY), DEMO_CLIENT_ID),
            binding(DEMO_IDENTITY),
            *(pod(f"on-{each.name}", ["sleep", "3600"], labels=labels, nodeName=each.name) for each in bed.nodes),
            *service(address_of(bed)),
        )
        bed.kubectl("wait", "--for=condition=Ready", "pod/on-node-0", "pod/on-node-1", "--timeout=60s")
        for node in bed.nodes:
            client.eventually(bed, f"on-{node.name}", DEMO_IDENTITY)
        yield bed


def address_of(bed: Bed, number: int = 0) -> str:
    """Return the address of a node, on which its NMI listens."""
    return bed.nodes[number].addresses.node


def test_pods_of_every_node_are_served(nodes: Bed) -> None:
    for node in nodes.nodes:
        response = client.token(nodes, f"on-{node.name}")
        assert (response.status, response.identity) == (200, DEMO_IDENTITY), response


def test_nmi_waits_for_the_request_of_a_redirected_connection(nodes: Bed) -> None:
    # The tests below expect that other connections without a request are closed at once.
    assert from_pod(nodes, "on-node-0", METADATA_ADDRESS, 80) == OPEN


CLIENTS: Final[Mapping[str, Attempt]] = {
    "another machine": lambda bed, line: from_namespace(bed.namespaces, OUTSIDE, address_of(bed), PORT, line),
    "a pod": lambda bed, line: from_pod(bed, "on-node-0", address_of(bed), PORT, line),
    "a pod of another node": lambda bed, line: from_pod(bed, "on-node-1", address_of(bed), PORT, line),
    "a process of the node": lambda bed, line: from_node(bed.nodes[0], address_of(bed), PORT, line),
    "a pod at the Service": lambda bed, line: from_pod(bed, "on-node-0", CLUSTER_ADDRESS, SERVICE_PORT, line),
    "a pod of another node at the Service": lambda bed, line: from_pod(
        bed, "on-node-1", CLUSTER_ADDRESS, SERVICE_PORT, line
    ),
}


@pytest.mark.parametrize("request_line", ["", TOKEN, HOST_TOKEN], ids=["silent", "token", "host-token"])
@pytest.mark.parametrize("name", CLIENTS)
def test_every_other_client_of_nmis_port_is_disconnected(nodes: Bed, name: str, request_line: str) -> None:
    assert CLIENTS[name](nodes, request_line) in REJECTED


@pytest.mark.parametrize("request_line", ["", TOKEN], ids=["silent", "token"])
@pytest.mark.parametrize("number", [0, 1])
def test_another_machine_that_connects_to_a_node_port_is_disconnected(
    nodes: Bed, number: int, request_line: str
) -> None:
    # kube-proxy answers for the port of the Service, so that an attempt that reaches nothing proves nothing.
    def is_closed() -> bool:
        at = address_of(nodes, number)
        return from_namespace(nodes.namespaces, OUTSIDE, at, NODE_PORT, request_line) in REJECTED - {REFUSED}

    wait_for(is_closed, 20, "the NodePort does not lead to NMI")


def test_a_process_of_the_node_reaches_the_host_token_endpoint_on_loopback_and_imds(nodes: Bed) -> None:
    node = nodes.nodes[0]
    assert from_node(node, "127.0.0.1", PORT, HOST_TOKEN) == ANSWERED
    instance = f"http://{METADATA_ADDRESS}/metadata/instance/compute?api-version=2021-02-01"
    assert node.name in node.run("curl", "--silent", "--header", "Metadata: true", instance)


@pytest.fixture(scope="module")
def neighbour(nodes: Bed) -> Bed:
    """The test bed with a machine that routes packets for IMDS through the first node, also with its pod's address."""
    name = nodes.nodes[0].name
    nodes.namespaces.create(NEIGHBOUR)
    nodes.namespaces.link(NEIGHBOUR, "eth0", name, "side0")
    nodes.namespaces.inside(name, [f"address add {NODE_SIDE}/30 dev side0"])
    nodes.namespaces.inside(
        NEIGHBOUR,
        [
            f"address add {NEIGHBOUR_ADDRESS}/30 dev eth0",
            f"address add {pod_address(nodes)}/32 dev lo",
            f"route add {METADATA_ADDRESS} via {NODE_SIDE}",
        ],
    )
    return nodes


def pod_address(bed: Bed) -> str:
    return bed.kubectl("get", "pod", "on-node-0", "--output=jsonpath={.status.podIP}")


def routed_request(bed: Bed, source: str) -> str:
    """Return the status of the response to a token request that the first node routes; NO_ANSWER after 10 seconds."""
    words = ("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "10")
    command = [*words, "--interface", source, "--header", "Metadata: true", TOKEN_URL]
    done = subprocess.run(
        bed.namespaces.command(NEIGHBOUR, command), capture_output=True, text=True, check=False, timeout=20
    )
    return done.stdout


def test_a_machine_whose_packets_the_node_routes_gets_no_token(neighbour: Bed) -> None:
    before = len(neighbour.azure.requests())
    assert routed_request(neighbour, NEIGHBOUR_ADDRESS) == "404"
    assert not any(each.leaked for each in neighbour.azure.requests()[before:])


def test_a_machine_that_forges_a_pods_address_receives_no_answer(neighbour: Bed) -> None:
    # The node sends its answers to the pod.
    assert routed_request(neighbour, pod_address(neighbour)) == NO_ANSWER
