"""Real network namespaces, and nodes, pods, IMDS and ARM connected by them: addresses, routes, rules, leftovers."""

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nmi.node.redirect_choice import Backend
from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.namespaces import NAMESPACES, NamespaceError, Namespaces, owner, sweep
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext
from podidentity_sandbox.network_choice import choose_network
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import free_ports
from podidentity_sandbox.settings import SandboxSettings
from tests.support.identity_requests import NODE, end, on_node, start_again
from tests.support.waiting import until_sync

OWN = Path("/proc/thread-self/ns/net")
LEAVE = """
import subprocess, sys
from podidentity_sandbox.namespaces import Namespaces
made = Namespaces("t4")
made.create("left")
child = subprocess.Popen(made.command("left", ["sleep", "60"]), stdout=subprocess.DEVNULL)
print(made.full_name("left"), child.pid, flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.root


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """The namespace `one`. The test leaves no namespace behind."""
    made = Namespaces("t1")
    made.create("one")
    yield made
    made.delete_all()
    assert not list(NAMESPACES.glob(f"{owner()}-t*"))


def connected_from(context: ExecutionContext, host: str, port: int) -> str:
    """The source address with which a program in *context* reaches *host*; empty when it does not."""
    asking = f"import socket; print(socket.create_connection(({host!r}, {port}), 10).getsockname()[0])"
    done = subprocess.run(context.command([sys.executable, "-c", asking]), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def test_a_socket_of_a_namespace_is_reachable_only_inside(namespaces: Namespaces) -> None:
    namespaces.create("two")
    with namespaces.listening("one", "127.0.0.1", 7777):
        for name, source in (("one", "127.0.0.1"), ("two", "")):
            context = ExecutionContext("", tuple(namespaces.command(name, ())))
            assert connected_from(context, "127.0.0.1", 7777) == source


def test_the_calling_thread_keeps_its_namespace_and_failures_are_raised(namespaces: Namespaces) -> None:
    own = OWN.readlink()
    inside = namespaces.call("one", lambda: (OWN.readlink(), threading.get_ident()))
    assert inside[0] != own
    assert inside[1] != threading.get_ident()
    assert OWN.readlink() == own
    with pytest.raises(ZeroDivisionError):
        namespaces.call("one", lambda: 1 // 0)
    namespaces.delete("one")
    with pytest.raises(OSError, match="No such file"):
        namespaces.call("one", lambda: None)


def test_two_of_one_name_are_rejected_and_deleting_a_missing_one_is_no_error(namespaces: Namespaces) -> None:
    with pytest.raises(NamespaceError, match="exists"):
        Namespaces("t1").create("one")
    namespaces.delete("one")
    namespaces.delete("one")


def runs(process: str) -> bool:
    """Whether it has not ended. The process that adopts an orphan may read its exit code much later."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def test_leftovers_of_a_killed_owner_are_removed_and_others_remain(namespaces: Namespaces) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", LEAVE], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        name, child = process.stdout.readline().split()
        sweep()
        assert (NAMESPACES / name).exists()
        process.send_signal(signal.SIGKILL)
    # A sandbox that another test starts at this moment may remove it first.
    until_sync(sweep, "the namespace is removed", holds=lambda _: not (NAMESPACES / name).exists())
    assert (NAMESPACES / namespaces.full_name("one")).exists()
    until_sync(lambda: not runs(child), "the program in it ends")


# Nodes and pods.


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    made = Fabric("f1")
    made.start()
    made.add_node("node-0")
    made.add_node("node-1")
    yield made
    made.stop()
    assert not list(NAMESPACES.glob(f"{owner()}-f1-*"))


def test_pods_and_nodes_reach_imds_with_different_addresses(fabric: Fabric) -> None:
    pods = {node: fabric.add_pod(node, f"pod-of-{node}") for node in ("node-0", "node-1")}
    listener = fabric.metadata_socket("node-0")
    assert listener is not None
    assert fabric.metadata_socket("node-1") is None
    with listener:
        for node, pod in pods.items():
            assert connected_from(pod, METADATA_ADDRESS, 80) == pod.address
            networks = fabric.metadata_sources(node)
            assert any(pod.address in map(str, network.hosts()) for network in networks)
            sources = fabric.metadata_sources("node-1" if node == "node-0" else "node-0")
            assert not any(pod.address in map(str, network.hosts()) for network in sources)


def test_pods_reach_the_sandboxs_services_and_each_other_but_not_this_machine(fabric: Fabric) -> None:
    first, second = fabric.add_pod("node-0", "a"), fabric.add_pod("node-1", "b")
    (listener,) = fabric.pod_sockets(4443)
    with listener:
        assert connected_from(first, fabric.pod_facing_address, 4443) == first.address
    with fabric.namespaces.listening("pod-b", second.address, 80):
        assert connected_from(first, second.address, 80) == first.address
    interfaces = subprocess.run(first.command(["ip", "-br", "link"]), capture_output=True, text=True, check=True).stdout
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
        assert connected_from(node, "127.0.0.1", port) == "127.0.0.1"
        assert connected_from(ExecutionContext(""), "127.0.0.1", port) == ""
        assert fabric.call_on_node("node-0", lambda: listener.getsockname()[1]) == port


@pytest.mark.parametrize(
    ("installed", "backend"),
    [
        (["nft"], Backend.NFTABLES),
        (["iptables-nft", "iptables-nft-save", "iptables-nft-restore"], Backend.IPTABLES_NFT),
        (["iptables-legacy", "iptables-legacy-save"], Backend.IPTABLES_LEGACY),
    ],
)
async def test_the_listing_shows_nmis_redirect_with_the_only_backend_of_the_machine_while_nmi_runs(
    installed: Sequence[str], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in installed:
        (tmp_path / name).symlink_to(f"/usr/sbin/{name}")
    monkeypatch.setattr("podidentity_sandbox.sandbox.choose_network", functools.partial(choose_network, str(tmp_path)))
    async with Sandbox(SandboxSettings(programs=False, namespaces=True, environment=os.environ)) as sandbox:
        choice = sandbox.network_choice
        assert choice.backend is backend
        await start_again(sandbox)
        assert sum("dnat" in rule.lower() for rule in choice.rules_in(on_node(sandbox, *choice.listing))) == 1
        assert await end(sandbox.nmis[NODE].program) == 0
        assert choice.rules_in(on_node(sandbox, *choice.listing)) == []
