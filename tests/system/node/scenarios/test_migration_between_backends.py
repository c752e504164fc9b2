"""A helm upgrade from one redirect backend or target to another, while pods send requests all the time.

No request reaches IMDS and none fails. Afterwards only the new backend has a redirect.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from tests.system.node.bed import Bed
from tests.system.node.data_planes import NETFILTER, Backend, Target, redirect_values
from tests.system.node.load import Load
from tests.system.node.node import Node
from tests.system.node.scenario import Scenarios

RATE: Final = float(os.environ.get("RATE", "2000"))
Step = tuple[Backend, Target]
DEFAULT: Final[Step] = ("auto", "auto")
EVERY_PAIR: Final[Sequence[Step]] = (
    ("iptables-legacy", "loopback"),
    ("iptables-nft", "node"),
    ("nftables", "loopback"),
    ("iptables-legacy", "node"),
    ("nftables", "node"),
    ("iptables-nft", "loopback"),
    ("iptables-legacy", "loopback"),
    DEFAULT,
)
"""A path that contains each ordered pair of two backends once, with changes of the target."""


def backends_with_a_redirect(node: Node) -> set[str]:
    """Return the backends that have a chain or table of NMI's redirect."""
    found = set()
    if "aad-metadata" in node.run("iptables-nft-save", "--table", "nat"):
        found.add("iptables-nft")
    if "aad-pod-identity\n" in node.run("nft", "list", "tables"):
        found.add("nftables")
    tables = node.done("cat", "/proc/net/ip_tables_names").stdout.split()
    if "nat" in tables and "aad-metadata" in node.run("iptables-legacy-save", "--table", "nat"):
        found.add("iptables-legacy")
    return found


@pytest.fixture
def load(bed: Bed) -> Iterator[Load]:
    """Pods that request tokens of their own identities all the time."""
    running = Load(bed, RATE)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def default_redirect(bed: Bed) -> Iterator[None]:
    """Install the default values again after a failure."""
    yield
    bed.install(command="upgrade")


def test_the_long_path_has_every_ordered_pair() -> None:
    pairs = {(one, other) for (one, _), (other, _) in itertools.pairwise(EVERY_PAIR)}
    assert pairs >= set(itertools.permutations(NETFILTER, 2))


@pytest.mark.usefixtures("default_redirect")
@pytest.mark.long
def test_a_change_of_the_backend_fails_no_request(bed: Bed, scenarios: Scenarios, load: Load) -> None:
    for (former, former_target), (backend, target) in itertools.pairwise([DEFAULT, *EVERY_PAIR]):
        name = f"redirect by `{former}` to `{former_target}` changed to `{backend}` to `{target}`, under load"
        upgrade = functools.partial(bed.install, redirect_values(backend, target), command="upgrade")
        result = scenarios.measure(name, upgrade, load=load)
        assert (result.leaked, result.wrong, result.refused, result.failed) == (0, 0, 0, 0), result
        assert result.interruption_seconds == 0, result
        # The test bed's kube-proxy and kubelet use iptables with the nft backend, which `auto` follows.
        assert backends_with_a_redirect(bed.nodes[0]) == {"iptables-nft" if backend == "auto" else backend}
