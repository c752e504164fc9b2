"""What NMI does to a node from start to end, by its settings, on a real one. Excluded: each part's own cases."""

import time

import pytest

from tests.nmi.node.machines import Machine
from tests.nmi.node.redirect_process import RedirectProcess
from tests.support.waiting import until_sync

pytestmark = pytest.mark.root


@pytest.fixture
def machine(machine: Machine) -> Machine:
    machine.run("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE")
    machine.run("iptables-nft", "-A", "INPUT", "-p", "tcp", "-j", "ACCEPT")
    return machine


def problems_of(machine: Machine, *flags: str, during: list[str] | None = None) -> list[str | None]:
    """Return the problem that the probe reports before and after; *during* receives the tables in between."""
    with RedirectProcess(machine, *flags) as node:
        node.installed()
        if during is not None:
            during += machine.saved("nft")
        node.end()
    return [node.states[0]["problem"], node.states[2]["problem"]]


def test_without_route_localnet_nmi_is_not_ready_and_names_the_command_to_run(machine: Machine) -> None:
    before, after = problems_of(machine)
    assert before == "the node is not prepared yet"
    assert after is not None
    assert "run `sysctl -w net.ipv4.conf.all.route_localnet=1` on the node" in after


def test_with_route_localnet_nmi_is_ready_and_leaves_nothing_behind(machine: Machine) -> None:
    machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
    before = machine.saved("nft")
    during: list[str] = []
    assert problems_of(machine, during=during)[1] is None
    assert "-A PREROUTING -j aad-metadata" in during
    assert machine.saved("nft") == before


def test_a_target_other_than_loopback_requires_no_route_localnet(machine: Machine) -> None:
    assert problems_of(machine, "--nmi-listen-address=10.0.0.4")[1] is None


def test_the_option_enables_route_localnet_and_guards_loopback_permanently(machine: Machine) -> None:
    for _ in range(2):
        assert problems_of(machine, "--route-localnet=set")[1] is None
        assert machine.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet") == "1\n"
        rules = [line for line in machine.saved("nft") if line.startswith("-A INPUT")]
        assert len(rules) == 2
        assert "--ctstate RELATED,ESTABLISHED,DNAT -j DROP" in rules[0]


def test_the_guard_waits_for_a_held_lock(machine: Machine) -> None:
    machine.run("iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    with machine.start("flock", "/run/xtables.lock", "sh", "-c", "echo held; exec cat") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with RedirectProcess(machine, "--route-localnet=set") as node:
            node.next()
            node.next()
            time.sleep(3.0)  # longer than two waits of iptables: one for the read and one for the write
            holder.communicate()
            assert node.installed()["problem"] is None
    assert [line for line in machine.saved("legacy") if line.startswith("-A INPUT ! -s 127.0.0.0/8")]


def test_later_changes_of_route_localnet_and_the_guard_are_noticed(machine: Machine) -> None:
    switch = "net/ipv4/conf/all/route_localnet"
    with RedirectProcess(machine, "--route-localnet=set", "--ipt-update-interval-sec=1") as node:
        node.installed()
        machine.run("iptables-nft", "-D", "INPUT", "1")
        machine.set_sysctl({switch: "0"})
        until_sync(lambda: machine.run("cat", f"/proc/sys/{switch}"), "the switch", holds="0\n".__ne__)
        assert machine.rules("nft", "INPUT")[0].startswith("-A INPUT ! -s 127.0.0.0/8")
    with RedirectProcess(machine, "--ipt-update-interval-sec=1") as node:
        assert node.installed()["problem"] is None
        machine.set_sysctl({switch: "0"})
        assert "sysctl -w" in str(node.until(lambda state: state["problem"] is not None)["problem"])
        machine.set_sysctl({switch: "1"})
        node.until(lambda state: state["problem"] is None)


def test_keep_iptables_rules_leaves_the_redirect_at_exit(machine: Machine) -> None:
    problems_of(machine, "--keep-iptables-rules")
    assert "-A PREROUTING -j aad-metadata" in machine.saved("nft")


def test_without_rule_management_nothing_is_touched_and_nmi_is_ready(machine: Machine) -> None:
    before = machine.saved("nft")
    during: list[str] = []
    assert problems_of(machine, "--redirect=none", "--route-localnet=set", during=during) == [None, None]
    assert during == before
    assert machine.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet") == "0\n"


def test_a_listener_on_all_addresses_is_reached_on_loopback_and_the_imds_address_is_configurable(
    machine: Machine,
) -> None:
    during: list[str] = []
    flags = ("--nmi-listen-address=0.0.0.0", "--nmi-port=99", "--metadata-ip=10.9.9.9", "--metadata-port=81")
    problems_of(machine, *flags, during=during)
    chain = [line for line in during if line.startswith("-A aad-metadata")]
    assert chain[0].endswith("-d 10.9.9.9/32 -p tcp -m tcp --dport 81 -j DNAT --to-destination 127.0.0.1:99")


def test_ending_old_connections_succeeds_if_there_are_none(machine: Machine) -> None:
    assert len(problems_of(machine, "--enable-conntrack-deletion")) == 2
