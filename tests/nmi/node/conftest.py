"""A node with rules of other programs, once for each backend, and a worker on it."""

from collections.abc import Iterator

import pytest

from tests.nmi.node.machines import Machine, Worker, machines
from tests.nmi.node.pod_node_imds import Site, sites

OTHERS = """*nat
:KUBE-SERVICES - [0:0]
:OTHER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals -j aad-metadata" -j KUBE-SERVICES
-A PREROUTING -i eth9 -j OTHER
-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE
-A KUBE-SERVICES -d 10.0.0.1/32 -p tcp -m comment --comment "default/kubernetes:https" -m tcp --dport 443 -j OTHER
-A OTHER -p tcp -m tcp -j DNAT --to-destination 10.1.1.1:6443
COMMIT
*mangle
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
"""


@pytest.fixture(params=["nft", "legacy"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def node(backend: str) -> Iterator[Machine]:
    with machines(1) as (machine,):
        machine.run(f"iptables-{backend}-restore", given=OTHERS)
        yield machine


@pytest.fixture
def worker(node: Machine, backend: str) -> Iterator[Worker]:
    with Worker(node, backend) as worker:
        yield worker


@pytest.fixture
def site(backend: str) -> Iterator[Site]:
    with sites(backend) as site:
        yield site
