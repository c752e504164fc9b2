"""NMI's table of nftables on a real node: written, found damaged, repaired, and its effect on packets.

Excluded: what all backends have in common (test_redirect_in_force), and migration between backends.
"""

from collections.abc import Iterator

import pytest

from tests.nmi.node.machines import Machine, Worker
from tests.nmi.node.pod_node_imds import Site, asked, open_connection, sites
from tests.nmi.node.redirect_process import RedirectProcess

pytestmark = pytest.mark.root

REDIRECT = (
    "ip saddr != 127.0.0.1 ip daddr 169.254.169.254 tcp dport 80 counter packets 0 bytes 0 dnat to 127.0.0.1:2579"
)
REJECT = "ip daddr 169.254.169.254 tcp dport 80 counter packets 0 bytes 0 reject with tcp reset"
FLUSH = "nft flush chain ip aad-pod-identity prerouting"

DAMAGE = {
    "flush ruleset": "nft flush ruleset",
    "table": "nft delete table ip aad-pod-identity",
    "dormant table": "nft add table ip aad-pod-identity '{ flags dormant; }'",
    "chain": "nft flush chain ip aad-pod-identity prerouting && nft delete chain ip aad-pod-identity prerouting",
    "rule": "nft flush chain ip aad-pod-identity prerouting",
    "second rule": "nft add rule ip aad-pod-identity prerouting tcp dport 81 accept",
    "rule before it": "nft insert rule ip aad-pod-identity prerouting ip saddr 10.244.0.7 accept",
    "the same rule twice": "nft add rule ip aad-pod-identity prerouting "
    "ip daddr 169.254.169.254 tcp dport 80 dnat to 127.0.0.1:2579",
    "other destination": f"{FLUSH} && nft add rule ip aad-pod-identity prerouting "
    "ip saddr != 127.0.0.1 ip daddr 169.254.169.254 tcp dport 80 counter dnat to 127.0.0.1:2580",
    "more conditions": f"{FLUSH} && nft add rule ip aad-pod-identity prerouting "
    "ip saddr != 127.0.0.1 ip saddr != 10.244.0.7 ip daddr 169.254.169.254 tcp dport 80 counter dnat to 127.0.0.1:2579",
    "no conditions": f"{FLUSH} && nft add rule ip aad-pod-identity prerouting "
    "meta l4proto tcp counter dnat to 127.0.0.1:2579",
    "other hook": "nft delete table ip aad-pod-identity && nft -f - <<'X'\n"
    "table ip aad-pod-identity {\nchain prerouting {\ntype nat hook output priority -101;\n}\n}\nX",
    "later priority": "nft delete table ip aad-pod-identity && nft -f - <<'X'\n"
    "table ip aad-pod-identity {\nchain prerouting {\ntype nat hook prerouting priority -99;\n}\n}\nX",
    "drop policy": "nft add chain ip aad-pod-identity prerouting "
    "'{ type nat hook prerouting priority -101; policy drop; }'",
    "foreign chain": "nft add chain ip aad-pod-identity other '{ type nat hook prerouting priority -102; }'",
    "foreign set": "nft add set ip aad-pod-identity other '{ type ipv4_addr; }'",
    "foreign map that leads to a chain": "nft add chain ip aad-pod-identity other && "
    "nft add map ip aad-pod-identity m '{ type ipv4_addr : verdict; elements = { 10.0.0.1 : jump other }; }'",
    "foreign counter": "nft add counter ip aad-pod-identity other",
}


@pytest.fixture
def backend() -> str:
    return "nftables"


@pytest.fixture
def site() -> Iterator[Site]:
    with sites("nft") as site:
        site.node.run("nft", "delete", "table", "ip", "nat")
        yield site


def ruleset(machine: Machine) -> str:
    return machine.run("nft", "list", "ruleset")


def test_the_table_holds_each_rule_in_its_chain_before_others_and_nothing_else(node: Machine, worker: Worker) -> None:
    before = ruleset(node)
    assert worker.do("install", "reject") is True
    assert worker.do("install") is True
    listed = node.run("nft", "-nn", "list", "table", "ip", "aad-pod-identity")
    assert [line.strip() for line in listed.splitlines()] == [
        "table ip aad-pod-identity {",
        "chain forward {",
        "type filter hook forward priority -1; policy accept;",
        REJECT,
        "}",
        "",
        "chain prerouting {",
        "type nat hook prerouting priority -101; policy accept;",
        REDIRECT,
        "}",
        "}",
    ]
    assert worker.do("fault") is None
    assert worker.do("fault", "reject") is None
    assert ruleset(node).startswith(before)


def test_the_removal_of_one_rule_keeps_the_other(node: Machine, worker: Worker) -> None:
    worker.do("install", "reject")
    worker.do("install")
    worker.do("remove", "reject")
    assert worker.do("fault", "reject") == "the chain is missing"
    assert worker.do("fault") is None


def test_after_withdrawal_the_rule_remains_in_a_chain_that_no_packet_enters(node: Machine, worker: Worker) -> None:
    before = ruleset(node)
    worker.do("withdraw")
    assert ruleset(node) == before
    worker.do("install")
    assert worker.do("withdraw") is False
    assert worker.do("fault") == "it has been withdrawn"
    worker.do("withdraw")
    worker.do("remove")
    assert ruleset(node) == before


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_repaired(node: Machine, worker: Worker, damage: str) -> None:
    worker.do("install")
    once = node.run("nft", "list", "table", "ip", "aad-pod-identity")
    node.run("sh", "-c", damage)
    assert worker.do("fault") is not None
    assert worker.do("verify") is True
    assert worker.do("fault") is None
    assert node.run("nft", "list", "table", "ip", "aad-pod-identity") == once
    assert worker.do("verify") is False


def test_both_rules_are_repaired_after_foreign_objects_and_a_flush(node: Machine, worker: Worker) -> None:
    worker.do("install", "reject")
    worker.do("install")
    for damage in ("nft add set ip aad-pod-identity other '{ type ipv4_addr; }'", "nft flush ruleset"):
        node.run("sh", "-c", damage)
        while worker.do("verify"):
            pass
        assert worker.do("fault", "reject") is None
        assert worker.do("fault") is None


def test_removal_also_removes_what_others_wrote_into_the_table(node: Machine, worker: Worker) -> None:
    before = ruleset(node)
    worker.do("install")
    node.run("sh", "-c", DAMAGE["foreign map that leads to a chain"])
    worker.do("remove")
    assert ruleset(node) == before


def test_the_redirect_is_effective_before_a_rule_of_iptables_and_the_reject_without_it(site: Site) -> None:
    other = ("-t", "nat", "-I", "PREROUTING", "-d", "169.254.169.254", "-p", "tcp", "-j", "DNAT")
    with Worker(site.node, "nftables") as worker:
        worker.do("install", "reject")
        assert asked(site.pod) == "ConnectionRefusedError"
        site.node.run("iptables-nft", *other, "--to-destination", "169.254.169.254")
        worker.do("install")
        assert asked(site.pod) == "nmi saw 10.244.0.7"


def test_open_connections_survive_the_withdrawal(site: Site) -> None:
    with Worker(site.node, "nftables") as worker:
        worker.do("install")
        old, connect_and_talk = open_connection(site.pod)
        assert connect_and_talk() == "nmi saw 10.244.0.7"
        worker.do("withdraw")
        assert connect_and_talk() == "nmi saw 10.244.0.7"
        assert asked(site.pod) == "imds saw 10.244.0.7"
        old.communicate()


def test_the_whole_life_of_an_nmi_without_iptables(site: Site) -> None:
    before = ruleset(site.node)
    with RedirectProcess(site.node, "--ipt-update-interval-sec=86400") as node:
        state = node.installed()
        assert (state["backend"], state["target"], state["problem"]) == ("nftables", "loopback", None)
        assert state["reason"] == "this node has no rules of iptables; route_localnet is on"
        assert asked(site.pod) == "nmi saw 10.244.0.7"
        site.node.run("nft", "flush", "ruleset")
        node.until(
            lambda state: state["repairs"] == 1 and state["in_force"]
        )  # by the kernel's report, not the interval
        assert asked(site.pod) == "nmi saw 10.244.0.7"
        node.end()
    assert ruleset(site.node) == before
    assert asked(site.pod) == "imds saw 10.244.0.7"


def test_with_fail_closed_no_pod_reaches_imds_through_a_flush_and_after_the_end(site: Site) -> None:
    with RedirectProcess(site.node, "--fail-closed", "--redirect=nftables") as node:
        state = node.installed()
        assert (state["closed"], state["problem"]) == (True, None)
        assert state["flush_guard"].startswith("aad-pod-identity-")
        node.end()
    assert asked(site.pod) == "nmi saw 10.244.0.7"
    site.node.run("nft", "flush", "chain", "ip", "aad-pod-identity", "prerouting")
    assert asked(site.pod) == "ConnectionRefusedError"
