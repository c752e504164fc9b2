"""The change of the backend on a node with running pods: no request reaches IMDS, and nothing of the former remains.

Excluded: the choice of the backend, and the handover of sockets.
"""

import itertools
import sys
from collections.abc import Iterator

import pytest

from tests.support.nmi.node.machines import NEVER, Machine, Program
from tests.support.nmi.node.pod_node_imds import IMDS, Site, response_to, sites
from tests.support.nmi.node.redirect_process import RedirectProcess

pytestmark = pytest.mark.root

BACKENDS = ("iptables-legacy", "iptables-nft", "nftables")

# Connects all the time until its input ends, at least twenty times, and reports the servers that answered.
REQUESTS = """
import select, socket, sys
seen, count = set(), 0
while count < 20 or not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with socket.create_connection((sys.argv[1], 80), timeout=30) as peer:
            peer.sendall(b"x")
            who = peer.recv(100).decode().split()[0]
    except OSError as error:
        who = type(error).__name__
    seen.add(who)
    count += 1
    if count == 1:
        print("started", flush=True)
print(*seen, flush=True)
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with sites("nft") as site:
        yield site


def traces(machine: Machine) -> list[str]:
    """Return the backends that hold NMI's redirect or reject."""
    backends = [
        backend
        for backend in ("legacy", "nft")
        if any("aad-metadata" in line or "tcp-reset" in line for line in machine.saved(backend))
    ]
    tables = machine.run("nft", "list", "tables").splitlines()
    return [f"iptables-{backend}" for backend in backends] + ["nftables"] * ("table ip aad-pod-identity" in tables)


@pytest.mark.parametrize(("former", "later"), list(itertools.permutations(BACKENDS, 2)))
@pytest.mark.parametrize("flags", [(), ("--fail-closed",)], ids=["open", "fail-closed"])
def test_no_request_reaches_imds_while_the_backend_changes(
    site: Site, former: str, later: str, flags: tuple[str, ...]
) -> None:
    killed = RedirectProcess(site.node, f"--redirect={former}", NEVER, *flags)
    assert killed.installed()["problem"] is None
    with Program(site.pod.start(sys.executable, "-c", REQUESTS, IMDS)) as requests:
        assert requests.read() == "started"
        killed.kill()
        with RedirectProcess(site.node, f"--redirect={later}", NEVER, "--keep-iptables-rules", *flags) as node:
            state = node.installed()
            assert (state["backend"], state["problem"]) == (later, None)
            assert traces(site.node) == [later]
        assert requests.end() == (0, "nmi\n")
    assert traces(site.node) == [later]


def test_a_reject_of_another_backend_is_lifted_without_fail_closed(site: Site) -> None:
    with RedirectProcess(site.node, "--redirect=nftables", NEVER, "--fail-closed") as killed:
        killed.installed()
        killed.kill()
    with RedirectProcess(site.node, "--redirect=iptables-nft", NEVER) as node:
        assert node.installed()["problem"] is None
    assert traces(site.node) == []
    assert response_to(site.pod) == "imds saw 10.244.0.7"


def test_python_iptables_is_not_loaded_on_a_host_without_legacy_tables(site: Site) -> None:
    for backend in ("iptables-nft", "nftables"):
        with RedirectProcess(site.node, f"--redirect={backend}", NEVER) as node:
            assert node.installed()["problem"] is None
            maps = site.node.run("cat", f"/proc/{node.pid}/maps")
            assert "python" in maps
            assert "libip4tc" not in maps
            assert "libxtables" not in maps
