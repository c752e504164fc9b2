"""One NodeServers and one NMI for all tests that only send requests. Neither is pinned to a core."""

from collections.abc import Iterator

import pytest

from benchmarks.load.node import Node, node
from benchmarks.load.node_servers import NodeServers, node_servers

PODS = 12


@pytest.fixture(scope="module")
def around() -> Iterator[NodeServers]:
    """A node with PODS pods that have 3 identities among them."""
    with node_servers(identities=3, core=None) as made:
        made.add_pods(PODS)
        yield made


@pytest.fixture(scope="module")
def nmi(around: NodeServers) -> Iterator[Node]:
    """The real one on that node, Active."""
    with node(around, core=None) as made:
        yield made
