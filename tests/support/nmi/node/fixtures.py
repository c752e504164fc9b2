"""A node with rules of other programs, once for each backend, and a worker on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nmi.node.machines import Machine, Worker, machines
from tests.support.nmi.node.pod_node_imds import Site, sites

OTHERS = """*nat
:KUBE-SERVICES - [0:0]
:OTHER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals -j aad-metadata" -j KUBE-SERVICES
-A PREROUTING -i eth9 -j OTHER
-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE
-A KUBE-SERVICES -d 10.0.0.1/32 -p tcp -m comment --comment "default/kubernetes:https" -m tcp --dport 443 -j OTHER
-A OTHER -p tcp -m tcp -j DNAT --to-destination 10.1.1.1:6443
COMMIT
*filter
:FORWARD DROP [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 8080 -j REJECT --reject-with tcp-reset
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
*mangle
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
"""
OTHER_TABLES = """
table ip kube-proxy {
    chain nat-prerouting { type nat hook prerouting priority dstnat; }
}
table ip nat {
    chain PREROUTING { type nat hook prerouting priority dstnat; tcp dport 81 dnat to 10.0.0.9; }
}
table inet aad-pod-identity {
    chain prerouting { type filter hook prerouting priority 0; }
}
"""


@pytest.fixture(params=["nft", "legacy"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Yield a machine without rules."""
    with machines(1) as (machine,):
        yield machine


@pytest.fixture
def chosen(machine: Machine, backend: str) -> Machine:
    """Return the machine with what makes NMI choose that backend, with route_localnet and foreign rules."""
    machine.run(f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    for chain in ("INPUT", "FORWARD"):
        machine.run(f"iptables-{backend}", "-A", chain, "-p", "tcp", "-j", "ACCEPT")
    machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
    return machine


@pytest.fixture
def node(machine: Machine, backend: str) -> Machine:
    """Return the machine with rules of other programs in that backend."""
    if backend == "nftables":
        machine.run("nft", "-f", "-", given=OTHER_TABLES)
    else:
        machine.run(f"iptables-{backend}-restore", given=OTHERS)
    return machine


@pytest.fixture
def worker(node: Machine, backend: str) -> Iterator[Worker]:
    with Worker(node, backend) as worker:
        yield worker


@pytest.fixture
def site(backend: str) -> Iterator[Site]:
    """Yield a pod, its node and a machine with IMDS's address; the node has rules of other programs."""
    with sites("legacy" if backend == "legacy" else "nft") as site:
        yield site


in_every_backend = pytest.mark.parametrize("backend", ["nft", "legacy", "nftables"], indirect=True)


def kubelet_with(labels: str, file: Path) -> str:
    """Write the kubelet's flags with these labels to *file*. Return the flag that names it."""
    file.write_text(f"KUBELET_FLAGS=--v=2\nKUBELET_NODE_LABELS={labels}\n")
    return f"--kubelet-config={file}"


def script_in(folder: Path, name: str, script: str) -> str:
    """Write a program of the shell. Return its path."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)
