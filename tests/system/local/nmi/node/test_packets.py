"""The effect of the redirect, the reject, and conntrack deletion on packets, also next to rules of other programs.

AKS's own block of IMDS for pods is in FORWARD, and NMI's redirect leads to INPUT. The rule and its source: `aks`.
"""

import os
import signal
import sys

import pytest

from nmi.node.conntrack import LISTED_MAX
from tests.support.nmi.node import aks
from tests.support.nmi.node.fixtures import in_every_backend
from tests.support.nmi.node.machines import JUMP, NEVER, REJECT, Worker
from tests.support.nmi.node.pod_node_imds import IMDS, Site, kept_connection, response_to, serving
from tests.support.nmi.node.redirect_process import RedirectProcess
from tests.support.waiting import until_sync

pytestmark = pytest.mark.root

PRETENDED = "10.99.0.1"
BROKEN = ("ConnectionResetError", "TimeoutError", "closed")
DROPPED_SECONDS = 1.5
"""The time limit of a connection whose packets are dropped."""


@in_every_backend
def test_pods_reach_nmi_while_the_rule_is_installed_and_its_counter_counts_their_first_packets(
    site: Site, backend: str
) -> None:
    assert response_to(site.pod) == "imds saw 10.244.0.7"
    with (
        serving(site.imds, IMDS, 8080, "other"),
        serving(site.node, "10.244.0.1", 80, "node"),
        Worker(site.node, backend) as worker,
    ):
        assert worker.do("packets") is None
        worker.do("install")
        assert worker.do("packets") == 0
        for count in (1, 2):
            assert response_to(site.pod) == "nmi saw 10.244.0.7"
            assert response_to(site.node) == "imds saw 169.254.0.1"
            assert worker.do("packets") == count
        assert response_to(site.pod, IMDS, 8080) == "other saw 10.244.0.7"
        assert response_to(site.pod, "10.244.0.1", 80) == "node saw 10.244.0.7"
        worker.do("install", "reject")
        assert worker.do("packets", "reject") == 0
        worker.do("remove", "reject")
        worker.do("remove")
        assert worker.do("packets") is None
        assert response_to(site.pod) == "imds saw 10.244.0.7"


def test_without_route_localnet_packets_are_dropped_and_the_check_names_the_cause(site: Site, backend: str) -> None:
    # A change of conf.all does not change existing interfaces. Each has a switch, and one of both is enough.
    site.node.set_sysctl({"net/ipv4/conf/all/route_localnet": "0"})
    code = "from nmi.node import route_localnet; print(route_localnet.fault())"
    with Worker(site.node, backend) as worker:
        worker.do("install")
        assert response_to(site.pod, seconds=DROPPED_SECONDS) == "TimeoutError"
        assert "sysctl -w net.ipv4.conf.all.route_localnet=1" in site.node.run(sys.executable, "-c", code)
        site.node.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
        assert site.node.run(sys.executable, "-c", code) == "None\n"
        assert response_to(site.pod) == "nmi saw 10.244.0.7"


@pytest.mark.parametrize("private", ["127.0.0.1", "127.0.0.53"])
def test_the_guard_drops_packets_of_neighbours_and_accepts_redirected_ones(
    site: Site, backend: str, private: str
) -> None:
    # The neighbour of CVE-2020-8558 sends packets for a loopback address to the node; systemd-resolved, for one, is at
    # 127.0.0.53. Its own kernel takes no responses from such an address, so it asks for another one, which becomes the
    # loopback address on the way out.
    site.pod.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
    site.pod.run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
    site.pod.run("ip", "route", "add", f"{private}/32", "via", "10.244.0.1", "src", "10.244.0.7")
    site.pod.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", PRETENDED, "-j", "DNAT", "--to", private)
    with Worker(site.node, backend) as worker, serving(site.node, private, 10250, "private"):
        worker.do("install")
        site.node.run(f"iptables-{backend}", "-A", "INPUT", "-j", "ACCEPT")
        assert response_to(site.pod, PRETENDED, 10250) == "private saw 10.244.0.7"
        call = f"ensure_guard('/usr/sbin/iptables-{backend}')"
        code = f"import asyncio; from nmi.node.route_localnet import ensure_guard; asyncio.run({call})"
        site.node.run(sys.executable, "-c", code)
        assert response_to(site.pod, PRETENDED, 10250, seconds=DROPPED_SECONDS) == "TimeoutError"
        assert response_to(site.pod) == "nmi saw 10.244.0.7"
        assert response_to(site.node, private, 10250).startswith("private saw 127.0.0.")


def test_the_redirect_of_nftables_is_effective_before_a_rule_of_iptables(site: Site) -> None:
    foreign_rule = ("-t", "nat", "-I", "PREROUTING", "-d", IMDS, "-p", "tcp", "-j", "DNAT", "--to-destination", IMDS)
    with Worker(site.node, "nftables") as worker:
        worker.do("install", "reject")
        assert response_to(site.pod) == "ConnectionRefusedError"
        site.node.run("iptables-nft", *foreign_rule)
        worker.do("install")
        assert response_to(site.pod) == "nmi saw 10.244.0.7"


@in_every_backend
def test_open_connections_survive_the_withdrawal(site: Site, backend: str) -> None:
    with Worker(site.node, backend) as worker:
        worker.do("install")
        old = kept_connection(site.pod)
        assert old.ask() == "nmi saw 10.244.0.7"
        worker.do("withdraw")
        assert old.ask() == "nmi saw 10.244.0.7"
        assert response_to(site.pod) == "imds saw 10.244.0.7"
        old.end()


@pytest.mark.parametrize("backend", ["iptables-nft", "nftables"])
def test_a_rule_of_another_program_that_is_effective_first_makes_nmi_not_ready(site: Site, backend: str) -> None:
    with RedirectProcess(site.node, f"--redirect={backend}", "--ipt-update-interval-sec=1") as node:
        assert node.installed()["problem"] is None
        site.node.run("nft", "add", "table", "ip", "first")
        site.node.run("nft", "add", "chain", "ip", "first", "c", "{ type nat hook prerouting priority -150; }")
        node.until(lambda state: state["problem"] is None)
        site.node.run("nft", "add", "rule", "ip", "first", "c", "ip", "daddr", IMDS, "dnat", "to", IMDS)

        def bypassed(state: dict[str, object]) -> bool:
            assert response_to(site.pod) == "imds saw 10.244.0.7"
            return state["problem"] is not None

        assert "none matched the redirect" in str(node.until(bypassed)["problem"])
        site.node.run("nft", "delete", "table", "ip", "first")
        assert response_to(site.pod) == "nmi saw 10.244.0.7"
        node.until(lambda state: state["problem"] is None)


# The reject.


def test_the_reject_rule_refuses_pods_immediately_and_no_other_sender(site: Site, backend: str) -> None:
    with serving(site.imds, IMDS, 8080, "other"), Worker(site.node, backend) as worker:
        worker.do("install", "reject")
        assert response_to(site.pod) == "ConnectionRefusedError", "refused, not left to time out"
        assert response_to(site.node) == "imds saw 169.254.0.1"
        assert response_to(site.pod, IMDS, 8080) == "other saw 10.244.0.7"
        worker.do("install")
        assert response_to(site.pod) == "nmi saw 10.244.0.7", "redirected packets do not reach it"
        site.node.run(f"iptables-{backend}", "-t", "nat", "-F")
        assert response_to(site.pod) == "ConnectionRefusedError"
        worker.do("remove", "reject")
        assert response_to(site.pod) == "imds saw 10.244.0.7"


def test_the_reject_rule_also_ends_older_connections(site: Site, backend: str) -> None:
    with Worker(site.node, backend) as worker:
        old = kept_connection(site.pod)
        assert old.ask() == "imds saw 10.244.0.7"
        worker.do("install", "reject")
        assert old.ask() in BROKEN
        old.end()


def test_the_reject_rule_covers_an_address_that_the_node_translates_to_imds(site: Site, backend: str) -> None:
    service = ("-d", "10.96.0.9", "-p", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", f"{IMDS}:80")
    site.node.run(f"iptables-{backend}", "-t", "nat", "-A", "PREROUTING", *service)
    with Worker(site.node, backend) as worker:
        worker.do("install")
        assert response_to(site.pod, "10.96.0.9") == "imds saw 10.244.0.7", (
            "the redirect alone does not apply to that address"
        )
        worker.do("install", "reject")
        assert response_to(site.pod, "10.96.0.9") == "ConnectionRefusedError"


# Connections past NMI, and their deletion from conntrack.


def test_conntrack_entries_from_before_the_rule_are_deleted_and_those_to_nmi_are_not(site: Site, backend: str) -> None:
    with Worker(site.node, backend) as worker:
        assert worker.do("bypassing") == []
        assert response_to(site.node) == "imds saw 169.254.0.1"
        old = kept_connection(site.pod)
        assert old.ask() == "imds saw 10.244.0.7"
        worker.do("install")
        new = kept_connection(site.pod)
        assert new.ask() == "nmi saw 10.244.0.7"
        assert old.ask() == "imds saw 10.244.0.7", "the kernel keeps tracked connections, so they must be deleted"
        assert [address for address, _ in worker.do("bypassing")] == ["10.244.0.7"]
        assert worker.do("forget") == 2, "the node continues its own connection with a new entry"
        assert old.ask() in BROKEN
        assert new.ask() == "nmi saw 10.244.0.7"
        assert worker.do("forget") == 0
        old.end()
        new.end()


def test_a_connection_made_while_the_rule_was_missing_is_ended_after_the_repair(site: Site, backend: str) -> None:
    own = kept_connection(site.node)
    assert own.ask() == "imds saw 169.254.0.1"
    with RedirectProcess(site.node, "--enable-conntrack-deletion", NEVER) as node:
        assert node.installed()["backend"] == f"iptables-{backend}"
        forgotten = node.now()["forgotten_connections"]
        os.kill(node.pid, signal.SIGSTOP)  # so that the test determines the time of the repair
        site.node.run(f"iptables-{backend}", "-t", "nat", "-D", *JUMP.split()[1:])
        old = kept_connection(site.pod)
        assert old.ask() == "imds saw 10.244.0.7"
        os.kill(node.pid, signal.SIGCONT)
        node.until(lambda state: state["repairs"] == 1 and state["forgotten_connections"] > forgotten)
        assert old.ask() in BROKEN
        assert response_to(site.pod) == "nmi saw 10.244.0.7"
        assert own.ask() == "imds saw 169.254.0.1", "the node's own connection is kept"
    old.end()
    own.end()


@pytest.mark.parametrize("backend", ["nft"])
def test_more_connections_than_are_read_prove_nothing(site: Site) -> None:
    script = "".join(
        f"-I -p tcp -s 10.244.0.7 -d {IMDS} --sport {10000 + number} --dport 80 --state ESTABLISHED -t 100\n"
        for number in range(LISTED_MAX // 100)
    )
    site.node.run("conntrack", "--load-file", "-", given=script)
    with Worker(site.node, "nftables") as worker:
        assert worker.do("bypassing") is None


# AKS's block.


@pytest.mark.parametrize("table", aks.TABLES)
@pytest.mark.parametrize("flags", [(), ("--fail-closed",)], ids=["open", "fail-closed"])
@pytest.mark.parametrize("first", ["aks", "nmi"])
def test_with_nmi_pods_reach_nmi_and_the_node_reaches_imds(
    site: Site, backend: str, table: str, flags: tuple[str, ...], first: str
) -> None:
    if first == "aks":
        aks.restrict(site.node, backend, table)
        assert response_to(site.pod, seconds=DROPPED_SECONDS) == "TimeoutError", "without NMI pods cannot reach IMDS"
    with RedirectProcess(site.node, *flags) as nmi:
        nmi.installed()
        aks.restrict(site.node, backend, table)
        if flags and table == "filter":
            until_reject_is_first(site, backend)
        assert response_to(site.pod) == "nmi saw 10.244.0.7"
        assert response_to(site.node) == "imds saw 169.254.0.1"
    # After an orderly stop, and even if nat is flushed: AKS's rule drops, or our reject refuses where it comes first.
    site.node.run(f"iptables-{backend}", "-t", "nat", "-F")
    refused = "ConnectionRefusedError" if flags and table == "filter" else "TimeoutError"
    assert response_to(site.pod, seconds=DROPPED_SECONDS) == refused
    assert aks.COMMENT in site.node.run(f"iptables-{backend}", "-t", table, "-S"), "AKS's rules remain"


def until_reject_is_first(site: Site, backend: str) -> None:
    """Wait until NMI has put its reject rule before AKS's rule, which the script inserted first in the chain."""
    until_sync(lambda: site.node.rules(backend, "FORWARD")[0] == REJECT, "the reject rule is first again")


def test_nmi_and_the_kubelet_start_script_do_not_undo_each_others_rules(site: Site, backend: str) -> None:
    with RedirectProcess(site.node, "--fail-closed", "--ipt-update-interval-sec=1") as nmi:
        nmi.installed()
        for _ in range(3):
            aks.restrict(site.node, backend, "filter")
            until_reject_is_first(site, backend)
            _, second = site.node.rules(backend, "FORWARD")
            assert aks.COMMENT in second
        assert nmi.now()["repairs"] <= 1, "the script inserts its rule once, before ours; ours is put back once"
