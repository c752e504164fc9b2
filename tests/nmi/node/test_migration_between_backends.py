"""The change of the backend on a node with running pods: no request reaches IMDS, and nothing of the former remains.

Excluded: the choice of the backend, and the handover of sockets.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.nmi.node.machines import SECONDS, Machine
from tests.nmi.node.pod_node_imds import IMDS, Site, asked, sites
from tests.nmi.node.redirect_process import RedirectProcess

pytestmark = pytest.mark.root

BACKENDS = ("iptables-legacy", "iptables-nft", "nftables")
NEVER = "--ipt-update-interval-sec=86400"

# Connects all the time until its input ends, and reports how often each server answered.
REQUESTS = """
import json, select, socket, sys
seen = {}
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with socket.create_connection((sys.argv[1], 80), timeout=30) as peer:
            peer.sendall(b"x")
            who = peer.recv(100).decode().split()[0]
    except OSError as error:
        who = type(error).__name__
    seen[who] = seen.get(who, 0) + 1
    if sum(seen.values()) == 1:
        print("started", flush=True)
print(json.dumps(seen), flush=True)
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with sites("nft") as site:
        yield site


@contextmanager
def requests(site: Site, seen: dict[str, int]) -> Iterator[None]:
    """Send requests from the pod; *seen* receives how often each server answered."""
    process = site.pod.start(sys.executable, "-c", REQUESTS, IMDS)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    try:
        yield
    finally:
        output, _ = process.communicate(timeout=SECONDS)
        seen.update(json.loads(output))


def traces(machine: Machine) -> list[str]:
    """Return the backends that hold NMI's redirect or reject."""
    found = [
        backend
        for backend in ("legacy", "nft")
        if any("aad-metadata" in line or "tcp-reset" in line for line in machine.saved(backend))
    ]
    tables = machine.run("nft", "list", "tables").splitlines()
    return [f"iptables-{each}" for each in found] + ["nftables"] * ("table ip aad-pod-identity" in tables)


@pytest.mark.parametrize(("former", "later"), list(itertools.permutations(BACKENDS, 2)))
@pytest.mark.parametrize("flags", [(), ("--fail-closed",)], ids=["open", "fail-closed"])
def test_no_request_reaches_imds_while_the_backend_changes(
    site: Site, former: str, later: str, flags: tuple[str, ...]
) -> None:
    seen: dict[str, int] = {}
    killed = RedirectProcess(site.node, f"--redirect={former}", NEVER, *flags)
    assert killed.installed()["problem"] is None
    with requests(site, seen):
        killed.kill()
        with RedirectProcess(site.node, f"--redirect={later}", NEVER, "--keep-iptables-rules", *flags) as node:
            state = node.installed()
            assert (state["backend"], state["problem"]) == (later, None)
            assert traces(site.node) == [later]
            time.sleep(0.2)
            node.end()
    assert seen.keys() == {"nmi"}
    assert seen["nmi"] > 10
    assert traces(site.node) == [later]


def test_a_reject_of_another_backend_is_lifted_without_fail_closed(site: Site) -> None:
    killed = RedirectProcess(site.node, "--redirect=nftables", NEVER, "--fail-closed")
    killed.installed()
    killed.kill()
    with RedirectProcess(site.node, "--redirect=iptables-nft", NEVER) as node:
        assert node.installed()["problem"] is None
        node.end()
    assert traces(site.node) == []
    assert asked(site.pod) == "imds saw 10.244.0.7"


def test_rules_of_other_programs_in_other_backends_stay(site: Site) -> None:
    for backend in ("legacy", "nft"):
        site.node.run(f"iptables-{backend}", "-A", "FORWARD", "-d", IMDS, "-p", "tcp", "-j", "ACCEPT")
    site.node.run("nft", "add", "table", "ip", "other")
    before = site.node.saved("legacy"), site.node.saved("nft"), site.node.run("nft", "list", "table", "ip", "other")
    with RedirectProcess(site.node, "--redirect=nftables", NEVER) as node:
        node.installed()
        node.end()
    after = site.node.saved("legacy"), site.node.saved("nft"), site.node.run("nft", "list", "table", "ip", "other")
    assert after == before


def test_the_chain_of_the_go_implementation_in_another_backend_is_removed(site: Site) -> None:
    for command in (
        ("-N", "aad-metadata"),
        ("-A", "aad-metadata", "-d", IMDS, "-p", "tcp", "-j", "DNAT", "--to-destination", "10.0.0.4:2579"),
        ("-I", "PREROUTING", "-j", "aad-metadata"),
    ):
        site.node.run("iptables-legacy", "-t", "nat", *command)
    with RedirectProcess(site.node, "--redirect=nftables", NEVER) as node:
        node.installed()
        assert traces(site.node) == ["nftables"]
        assert asked(site.pod) == "nmi saw 10.244.0.7"


def test_python_iptables_is_not_loaded_on_a_host_without_legacy_tables(site: Site) -> None:
    for backend in ("iptables-nft", "nftables"):
        with RedirectProcess(site.node, f"--redirect={backend}", NEVER) as node:
            assert node.installed()["problem"] is None
            maps = site.node.run("cat", f"/proc/{node.pid}/maps")
            assert "libpython" in maps or "python" in maps
            assert "libip4tc" not in maps
            assert "libxtables" not in maps
