"""The rules of a node with and without --fail-closed, from NMI's start to its end. Excluded: packets (test_packets)."""

import pytest

from tests.nmi.node.machines import Machine, machines
from tests.nmi.node.redirect_process import RedirectProcess

pytestmark = pytest.mark.root

JUMP = "-A PREROUTING -j aad-metadata"
REJECT = "-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"


@pytest.fixture
def machine(machine: Machine, backend: str) -> Machine:
    machine.run(f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    machine.run(f"iptables-{backend}", "-A", "INPUT", "-p", "tcp", "-j", "ACCEPT")
    machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
    return machine


def test_the_reject_rule_exists_before_nmi_listens_and_the_redirect_after(machine: Machine, backend: str) -> None:
    code = (
        "import asyncio; from nmi.node.traffic_redirect import TrafficRedirect; from nmi.settings import parse; "
        "redirect = TrafficRedirect(parse(['--node=n', '--fail-closed'], {})); runner = asyncio.Runner(); "
        "runner.run(redirect.prepare()); runner.run(redirect.note_labels({}))"
    )
    machine.run(".venv/bin/python", "-c", code)
    lines = machine.saved(backend)
    assert REJECT in lines
    assert JUMP not in lines


def test_both_rules_remain_at_exit_and_are_taken_over(machine: Machine, backend: str) -> None:
    for _ in range(2):
        with RedirectProcess(machine, "--fail-closed") as node:
            assert node.installed()["closed"] is True
            node.end()
        lines = machine.saved(backend)
        assert lines.count(JUMP) == 1
        assert lines.count(REJECT) == 1


def test_the_node_is_not_ready_until_the_reject_rule_is_in_force(machine: Machine, backend: str) -> None:
    with RedirectProcess(machine, "--fail-closed") as node:
        node.installed()
    before, prepared, installed = node.states[:3]
    assert (before["closed"], before["problem"]) == (False, "the node is not prepared yet")
    assert (prepared["closed"], prepared["problem"]) == (
        True,
        "the redirect of 169.254.169.254: it has not been installed yet",
    )
    assert (installed["closed"], installed["problem"], installed["backend"]) == (True, None, f"iptables-{backend}")


def test_starting_without_the_flag_removes_the_reject_rule_and_leaves_the_node_clean(
    machine: Machine, backend: str
) -> None:
    before = machine.saved(backend)
    with RedirectProcess(machine, "--fail-closed") as node:
        node.installed()
    assert machine.saved(backend) != before
    with RedirectProcess(machine) as node:
        assert node.installed()["closed"] is False
        lines = machine.saved(backend)
        assert JUMP in lines
        assert REJECT not in lines
        node.end()
    assert [line for line in machine.saved(backend) if line.startswith("-A")] == [
        line for line in before if line.startswith("-A")
    ]


def test_a_remaining_redirect_does_not_count_as_fail_closed(machine: Machine, backend: str) -> None:
    with RedirectProcess(machine, "--keep-iptables-rules") as node:
        node.installed()
        node.end()
    lines = machine.saved(backend)
    assert JUMP in lines
    assert REJECT not in lines


def test_without_the_flag_a_legacy_node_gets_no_filter_table() -> None:
    with machines(1) as (machine,):
        machine.run("iptables-legacy", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
        with RedirectProcess(machine) as node:
            node.installed()
            node.end()
        assert sorted(machine.run("cat", "/proc/net/ip_tables_names").split()) == ["mangle", "nat"]
