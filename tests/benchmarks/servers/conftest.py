"""One world and one NMI for all that only ask. Not pinned, so that it does not matter what else the machine does."""

from collections.abc import Iterator

import pytest

from benchmarks.load.node import Node, node
from benchmarks.load.world import World, world

PODS = 12


@pytest.fixture(scope="module")
def around() -> Iterator[World]:
    """A node with PODS pods that have 3 identities among them."""
    with world(identities=3, core=None) as made:
        made.add_pods(PODS)
        yield made


@pytest.fixture(scope="module")
def nmi(around: World) -> Iterator[Node]:
    """The real one on that node, Active."""
    with node(around, core=None) as made:
        yield made
