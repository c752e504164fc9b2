"""NMI's table of nftables on a real node: written, found damaged, repaired, removed, and its effect on packets.

Excluded: the other backends (test_redirect_in_force, test_redirect_repair) and migration between backends.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from nmi.node.nftables_driver import FoundChain, clear_commands, parsed, put_commands
from nmi.node.rules import TABLE, RedirectSpec
from tests.nmi.node.machines import Machine, Worker
from tests.nmi.node.pod_node_imds import Site, asked, open_connection, sites
from tests.nmi.node.redirect_process import RedirectProcess

REDIRECT = (
    "ip saddr != 127.0.0.1 ip daddr 169.254.169.254 tcp dport 80 counter packets 0 bytes 0 dnat to 127.0.0.1:2579"
)
REJECT = "ip daddr 169.254.169.254 tcp dport 80 counter packets 0 bytes 0 reject with tcp reset"
OTHERS = """
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
TO = RedirectSpec("169.254.169.254", 80, "127.0.0.1", 2579)

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
def machine() -> Iterator[Machine]:
    machine = Machine()
    machine.run("nft", "-f", "-", given=OTHERS)
    yield machine
    machine.close()


@pytest.fixture
def worker(machine: Machine) -> Iterator[Worker]:
    with Worker(machine, "nftables") as worker:
        yield worker


@pytest.fixture
def site() -> Iterator[Site]:
    with sites("nft") as site:
        site.node.run("nft", "delete", "table", "ip", "nat")
        yield site


def table(machine: Machine) -> list[str]:
    """Return the lines of NMI's table, with counters of 0."""
    return machine.run("nft", "-nn", "list", "table", "ip", "aad-pod-identity", check=False).split("\n\t")[1:]


def ruleset(machine: Machine) -> str:
    return machine.run("nft", "list", "ruleset")


@pytest.mark.root
def test_the_table_holds_each_rule_in_its_chain_before_others_and_nothing_else(
    machine: Machine, worker: Worker
) -> None:
    before = ruleset(machine)
    assert worker.do("install", "reject") is True
    assert worker.do("install") is True
    listed = machine.run("nft", "-nn", "list", "table", "ip", "aad-pod-identity")
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
    assert ruleset(machine).startswith(before)


@pytest.mark.root
def test_removal_restores_the_ruleset_and_may_be_repeated(machine: Machine, worker: Worker) -> None:
    before = ruleset(machine)
    worker.do("remove")
    worker.do("install", "reject")
    worker.do("install")
    worker.do("remove", "reject")
    assert worker.do("fault", "reject") == "the chain is missing"
    assert worker.do("fault") is None
    worker.do("remove", "reject")
    assert worker.do("fault") is None
    worker.do("remove")
    assert ruleset(machine) == before
    worker.do("remove")
    assert ruleset(machine) == before


@pytest.mark.root
def test_after_withdrawal_the_rule_remains_in_a_chain_that_no_packet_enters(machine: Machine, worker: Worker) -> None:
    before = ruleset(machine)
    worker.do("withdraw")
    assert ruleset(machine) == before
    worker.do("install")
    assert worker.do("withdraw") is False
    assert worker.do("fault") == "it has been withdrawn"
    worker.do("withdraw")
    worker.do("remove")
    assert ruleset(machine) == before


@pytest.mark.root
def test_installing_again_after_a_kill_or_for_another_port_leaves_exactly_one_rule(
    machine: Machine, worker: Worker
) -> None:
    worker.do("install")
    once = ruleset(machine)
    worker.kill()
    with Worker(machine, "nftables") as next_one:
        next_one.do("install")
        assert ruleset(machine) == once
        next_one.do("install", "redirect", 9999)
        assert ruleset(machine) == once.replace(":2579", ":9999")


@pytest.mark.root
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_repaired(machine: Machine, worker: Worker, damage: str) -> None:
    worker.do("install")
    once = machine.run("nft", "list", "table", "ip", "aad-pod-identity")
    machine.run("sh", "-c", damage)
    assert worker.do("fault") is not None
    assert worker.do("verify") is True
    assert worker.do("fault") is None
    assert machine.run("nft", "list", "table", "ip", "aad-pod-identity") == once
    assert worker.do("verify") is False


@pytest.mark.root
def test_both_rules_are_repaired_after_foreign_objects_and_a_flush(machine: Machine, worker: Worker) -> None:
    worker.do("install", "reject")
    worker.do("install")
    for damage in ("nft add set ip aad-pod-identity other '{ type ipv4_addr; }'", "nft flush ruleset"):
        machine.run("sh", "-c", damage)
        while worker.do("verify"):
            pass
        assert worker.do("fault", "reject") is None
        assert worker.do("fault") is None


@pytest.mark.root
def test_removal_also_removes_what_others_wrote_into_the_table(machine: Machine, worker: Worker) -> None:
    before = ruleset(machine)
    worker.do("install")
    machine.run("sh", "-c", DAMAGE["foreign map that leads to a chain"])
    worker.do("remove")
    assert ruleset(machine) == before


@pytest.mark.root
def test_a_pod_reaches_nmi_and_the_counter_counts_its_connections(site: Site) -> None:
    with Worker(site.node, "nftables") as worker:
        assert asked(site.pod) == "imds saw 10.244.0.7"
        worker.do("install")
        assert worker.do("packets") == 0
        assert asked(site.pod) == "nmi saw 10.244.0.7"
        assert asked(site.node) == "imds saw 169.254.0.1"
        assert worker.do("packets") == 1
        worker.do("remove")
        assert worker.do("packets") is None
        assert asked(site.pod) == "imds saw 10.244.0.7"


@pytest.mark.root
def test_the_redirect_is_effective_before_a_rule_of_iptables_and_the_reject_without_it(site: Site) -> None:
    other = ("-t", "nat", "-I", "PREROUTING", "-d", "169.254.169.254", "-p", "tcp", "-j", "DNAT")
    with Worker(site.node, "nftables") as worker:
        worker.do("install", "reject")
        assert asked(site.pod) == "ConnectionRefusedError"
        site.node.run("iptables-nft", *other, "--to-destination", "169.254.169.254")
        worker.do("install")
        assert asked(site.pod) == "nmi saw 10.244.0.7"


@pytest.mark.root
def test_open_connections_survive_the_withdrawal(site: Site) -> None:
    with Worker(site.node, "nftables") as worker:
        worker.do("install")
        old, connect_and_talk = open_connection(site.pod)
        assert connect_and_talk() == "nmi saw 10.244.0.7"
        worker.do("withdraw")
        assert connect_and_talk() == "nmi saw 10.244.0.7"
        assert asked(site.pod) == "imds saw 10.244.0.7"
        old.communicate()


@pytest.mark.root
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


@pytest.mark.root
def test_with_fail_closed_no_pod_reaches_imds_through_a_flush_and_after_the_end(site: Site) -> None:
    with RedirectProcess(site.node, "--fail-closed", "--redirect=nftables") as node:
        state = node.installed()
        assert (state["closed"], state["problem"]) == (True, None)
        assert state["flush_guard"].startswith("aad-pod-identity-")
        node.end()
    assert asked(site.pod) == "nmi saw 10.244.0.7"
    site.node.run("nft", "flush", "chain", "ip", "aad-pod-identity", "prerouting")
    assert asked(site.pod) == "ConnectionRefusedError"


def document(*entries: dict[str, Any]) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *entries]})


CHAIN = {
    "chain": {
        "family": "ip",
        "table": "aad-pod-identity",
        "name": "prerouting",
        "handle": 1,
        "type": "nat",
        "hook": "prerouting",
        "prio": -101,
        "policy": "accept",
    }
}


def test_a_counter_and_a_named_family_make_no_difference() -> None:
    made = [json.loads(each) for each in TO.redirect.base.expressions]
    made[-1]["dnat"]["family"] = "ip"
    rule = {"rule": {"chain": "prerouting", "expr": [*made[:-1], {"counter": {"packets": 7, "bytes": 420}}, made[-1]]}}
    found = FoundChain(parsed(document({"table": {"name": "aad-pod-identity"}}, CHAIN, rule)), "prerouting")
    assert found.fault(TO.redirect) is None


def test_another_family_is_a_difference() -> None:
    made = [json.loads(each) for each in TO.redirect.base.expressions]
    made[-1]["dnat"]["family"] = "ip6"
    found = FoundChain(parsed(document(CHAIN, {"rule": {"chain": "prerouting", "expr": made}})), "prerouting")
    assert found.fault(TO.redirect) == "the rule has other conditions"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"nftables": 1}', '{"nftables": [1]}', '{"nftables": [{"table": 1}]}', "[" * 100_000]
)
def test_a_table_that_cannot_be_read_is_damaged_and_written_again(text: str) -> None:
    table = parsed(text)
    assert "cannot be read as JSON" in (FoundChain(table, "prerouting").fault(TO.redirect) or "")
    assert not FoundChain(table, "prerouting").nothing
    assert put_commands(table, TO.redirect.base)[1] == {"delete": {"table": {"family": "ip", "name": TABLE}}}
    assert clear_commands(table, "prerouting") == [{"delete": {"table": {"family": "ip", "name": TABLE}}}]
