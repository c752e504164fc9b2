"""What NMI does to a node from start to end, by its settings, on a real one. Excluded: each part's own cases."""

import operator
import os
import signal

import pytest

from tests.support.nmi.node.machines import JUMP, NEVER, REJECT, Lock, Machine
from tests.support.nmi.node.pod_node_imds import Site, response_to
from tests.support.nmi.node.redirect_process import RedirectProcess
from tests.support.waiting import until_sync

pytestmark = pytest.mark.root

GUARD = "-A INPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
with_iptables_nft = pytest.mark.parametrize("backend", ["nft"])


@pytest.fixture
def masquerading(machine: Machine) -> Machine:
    """Return a node without route_localnet, whose backend is iptables-nft."""
    machine.run("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE")
    machine.run("iptables-nft", "-A", "INPUT", "-p", "tcp", "-j", "ACCEPT")
    return machine


def installed(machine: Machine, *flags: str) -> tuple[list[str | None], list[str]]:
    """Return the problem that the probe reports before and after the installation, and the tables after it."""
    with RedirectProcess(machine, *flags) as node:
        node.installed()
        return [node.states[0]["problem"], node.states[2]["problem"]], machine.saved("nft")


def test_without_route_localnet_nmi_is_not_ready_and_names_the_command_to_run(masquerading: Machine) -> None:
    (before, after), _ = installed(masquerading)
    assert before == "the node is not prepared yet"
    assert after is not None
    assert "run `sysctl -w net.ipv4.conf.all.route_localnet=1` on the node" in after


def test_the_option_enables_route_localnet_and_guards_loopback_permanently(masquerading: Machine) -> None:
    for _ in range(2):
        (_, problem), _ = installed(masquerading, "--route-localnet=set")
        assert problem is None
        assert masquerading.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet") == "1\n"
        assert masquerading.rules("nft", "INPUT") == [GUARD, "-A INPUT -p tcp -j ACCEPT"]


def test_the_guard_waits_for_a_held_lock(machine: Machine) -> None:
    machine.run("iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    machine.run("iptables-legacy", "-A", "INPUT", "-p", "tcp", "-j", "ACCEPT")
    lock = Lock(machine)
    with RedirectProcess(machine, "--route-localnet=set") as node:
        node.next()
        node.next()
        lock.has_refused(3)  # for the read and the write, and after both
        lock.end()
        assert node.installed()["problem"] is None
    with RedirectProcess(machine, "--route-localnet=set") as node:
        assert node.installed()["problem"] is None
    assert machine.rules("legacy", "INPUT") == [GUARD, "-A INPUT -p tcp -j ACCEPT"]


def test_later_changes_of_route_localnet_and_the_guard_are_noticed(masquerading: Machine) -> None:
    switch = "net/ipv4/conf/all/route_localnet"
    with RedirectProcess(masquerading, "--route-localnet=set", "--ipt-update-interval-sec=1") as node:
        node.installed()
        masquerading.run("iptables-nft", "-D", "INPUT", "1")
        masquerading.set_sysctl({switch: "0"})
        until_sync(lambda: masquerading.run("cat", f"/proc/sys/{switch}"), "the switch", holds="0\n".__ne__)
        assert masquerading.rules("nft", "INPUT")[0] == GUARD
    with RedirectProcess(masquerading, "--ipt-update-interval-sec=1") as node:
        assert node.installed()["problem"] is None
        masquerading.set_sysctl({switch: "0"})
        assert "sysctl -w" in str(node.until(lambda state: state["problem"] is not None)["problem"])
        masquerading.set_sysctl({switch: "1"})
        node.until(lambda state: state["problem"] is None)


@pytest.mark.parametrize("mode", ["none", "cilium"])
def test_without_rule_management_nothing_is_touched_and_nmi_is_ready(masquerading: Machine, mode: str) -> None:
    before = masquerading.saved("nft")
    assert installed(masquerading, f"--redirect={mode}", "--route-localnet=set") == ([None, None], before)
    assert masquerading.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet") == "0\n"


def test_nmi_is_ready_with_its_redirect_alone_and_leaves_nothing_behind(chosen: Machine, backend: str) -> None:
    before = chosen.saved(backend)
    with RedirectProcess(chosen, "--fail-closed") as node:
        node.installed()
    assert chosen.saved(backend) != before
    with RedirectProcess(chosen, "--enable-conntrack-deletion") as node:  # without a connection to delete
        state = node.installed()
        assert (state["closed"], state["problem"]) == (False, None)
        assert JUMP in chosen.saved(backend)
        assert REJECT not in chosen.saved(backend), "the one of the former NMI is removed"
    assert [line for line in chosen.saved(backend) if line.startswith("-A")] == [
        line for line in before if line.startswith("-A")
    ]


def test_with_fail_closed_the_reject_comes_first_and_both_rules_remain_and_are_taken_over(
    chosen: Machine, backend: str
) -> None:
    with RedirectProcess(chosen, "--fail-closed") as node:
        state = node.next()
        assert (state["closed"], state["problem"]) == (False, "the node is not prepared yet")
        state = node.next()
        assert (state["closed"], state["problem"]) == (
            True,
            "the redirect of 169.254.169.254: it has not been installed yet",
        )
        assert REJECT in chosen.saved(backend)
        state = node.installed()
        assert (state["closed"], state["problem"], state["backend"]) == (True, None, f"iptables-{backend}")
    with RedirectProcess(chosen, "--fail-closed") as node:
        node.installed()
    lines = chosen.saved(backend)
    assert [lines.count(JUMP), lines.count(REJECT)] == [1, 1]


# Repairs by the kernel's reports, long before the interval ends.


@pytest.mark.parametrize(
    "damage",
    [
        ["-t", "nat", "-D", "PREROUTING", "-j", "aad-metadata"],
        ["-t", "nat", "-F"],
        ["-t", "nat", "-F", "aad-metadata"],
        ["-t", "nat", "-I", "PREROUTING", "-p", "tcp", "-j", "RETURN"],
        ["-F", "FORWARD"],
        ["-I", "FORWARD", "-p", "tcp", "-j", "ACCEPT"],
    ],
    ids=" ".join,
)
def test_any_change_of_the_rules_is_repaired_immediately(chosen: Machine, backend: str, damage: list[str]) -> None:
    with RedirectProcess(chosen, "--fail-closed", NEVER) as node:
        assert node.installed()["told_of_changes"]
        chosen.run(f"iptables-{backend}", "-w", *damage)
        node.until(lambda state: state["repairs"] == 1)
        lines = chosen.saved(backend)
        assert next(line for line in lines if line.startswith("-A PREROUTING")) == JUMP
        assert next(line for line in lines if line.startswith("-A FORWARD")) == REJECT
        assert lines.count(JUMP) == lines.count(REJECT) == 1
        assert node.now()["problem"] is None


def test_firewalls_that_replace_all_rules_are_repaired_each_time(chosen: Machine, backend: str) -> None:
    firewall = chosen.run(f"iptables-{backend}-save")
    with RedirectProcess(chosen, "--fail-closed", NEVER) as node:
        node.installed()
        for _ in range(2):
            before = node.now()["repairs"]
            chosen.run(f"iptables-{backend}-restore", given=firewall)
            until_sync(lambda: node.now()["repairs"], "a repair", holds=before.__lt__)
            node.until(lambda state: state["problem"] is None)
            assert REJECT in chosen.saved(backend)


@with_iptables_nft
def test_the_whole_life_of_an_nmi_without_iptables(site: Site) -> None:
    site.node.run("nft", "delete", "table", "ip", "nat")
    before = site.node.saved("nftables")
    with RedirectProcess(site.node, NEVER) as node:
        state = node.installed()
        assert (state["backend"], state["target"], state["problem"]) == ("nftables", "loopback", None)
        assert state["reason"] == "this node has no rules of iptables; route_localnet is on"
        assert response_to(site.pod) == "nmi saw 10.244.0.7"
        site.node.run("nft", "flush", "ruleset")
        node.until(lambda state: state["repairs"] == 1 and state["in_force"])
        assert response_to(site.pod) == "nmi saw 10.244.0.7"
    assert site.node.saved("nftables") == before
    assert response_to(site.pod) == "imds saw 10.244.0.7"


# The flush guard.


def guards(machine: Machine) -> list[str]:
    """Return the names of the tables of flush guards."""
    lines = machine.run("nft", "list", "tables").splitlines()
    return [line.split()[2] for line in lines if line.startswith("table ip aad-pod-identity-")]


@with_iptables_nft
@pytest.mark.parametrize("used", ["iptables-nft", "nftables"])
def test_no_packet_reaches_imds_between_a_flush_and_the_repair(site: Site, used: str) -> None:
    with RedirectProcess(site.node, "--fail-closed", f"--redirect={used}", NEVER) as node:
        assert node.installed()["flush_guard"] in guards(site.node)
        assert response_to(site.pod) == "nmi saw 10.244.0.7"
        os.kill(node.pid, signal.SIGSTOP)  # so that nothing is repaired
        site.node.run("nft", "flush", "ruleset")
        assert site.node.saved("nft") == []
        assert response_to(site.pod) == "ConnectionRefusedError"
        assert response_to(site.node) == "imds saw 169.254.0.1"
        os.kill(node.pid, signal.SIGCONT)
        node.until(lambda state: state["repairs"] == 2 and state["problem"] is None)
        assert response_to(site.pod) == "nmi saw 10.244.0.7"
    if used == "nftables":
        site.node.run("nft", "flush", "chain", "ip", "aad-pod-identity", "prerouting")
        assert response_to(site.pod) == "ConnectionRefusedError", "the reject remains after the end"


@with_iptables_nft
def test_two_processes_have_a_guard_each_which_ends_with_its_process(chosen: Machine) -> None:
    with RedirectProcess(chosen, "--fail-closed", NEVER) as old:
        old.installed()
        with RedirectProcess(chosen, "--fail-closed", NEVER) as new:
            assert {old.now()["flush_guard"], new.installed()["flush_guard"]} == set(guards(chosen))
            assert len(guards(chosen)) == 2
        assert guards(chosen) == [old.now()["flush_guard"]]
        old.kill()
    until_sync(lambda: guards(chosen), "no guard", holds=operator.not_)
    assert REJECT in chosen.saved("nft")
    with RedirectProcess(chosen, NEVER) as without:
        assert without.installed()["flush_guard"] == ""
        assert guards(chosen) == []


@with_iptables_nft
def test_no_other_process_can_delete_the_guard(chosen: Machine) -> None:
    with RedirectProcess(chosen, "--fail-closed", NEVER) as node:
        table = node.installed()["flush_guard"]
        assert "not permitted" in chosen.finish("nft", "delete", "table", "ip", table).stderr
