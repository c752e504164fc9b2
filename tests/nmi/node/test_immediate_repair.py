"""A changed rule is restored long before the interval ends. Excluded: the definition of a change."""

import pytest

from tests.nmi.node.machines import Machine
from tests.nmi.node.redirect_process import RedirectProcess
from tests.support.waiting import until_sync

pytestmark = pytest.mark.root

JUMP = "-A PREROUTING -j aad-metadata"
REJECT = "-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"
NEVER = "--ipt-update-interval-sec=86400"


@pytest.fixture
def machine(machine: Machine, backend: str) -> Machine:
    machine.run(f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    machine.run(f"iptables-{backend}", "-A", "FORWARD", "-p", "tcp", "-j", "ACCEPT")
    machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
    return machine


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
def test_any_change_of_the_rules_is_repaired_immediately(machine: Machine, backend: str, damage: list[str]) -> None:
    with RedirectProcess(machine, "--fail-closed", NEVER) as node:
        assert node.installed()["told_of_changes"]
        machine.run(f"iptables-{backend}", "-w", *damage)
        node.until(lambda state: state["repairs"] == 1)
        lines = machine.saved(backend)
        assert next(line for line in lines if line.startswith("-A PREROUTING")) == JUMP
        assert next(line for line in lines if line.startswith("-A FORWARD")) == REJECT
        assert lines.count(JUMP) == lines.count(REJECT) == 1
        assert node.now()["problem"] is None


def test_repeated_changes_are_repaired_each_time(machine: Machine, backend: str) -> None:
    with RedirectProcess(machine, "--fail-closed", NEVER) as node:
        node.installed()
        for _ in range(3):
            before = node.now()["repairs"]
            machine.run(f"iptables-{backend}", "-w", "-t", "nat", "-D", *JUMP.split()[1:])
            until_sync(lambda: node.now()["repairs"], "a repair", holds=before.__ne__)
            assert JUMP in machine.saved(backend)


def test_a_firewall_that_replaces_all_rules_is_repaired_immediately(machine: Machine, backend: str) -> None:
    firewall = machine.run(f"iptables-{backend}-save")
    with RedirectProcess(machine, "--fail-closed", NEVER) as node:
        node.installed()
        machine.run(f"iptables-{backend}-restore", given=firewall)
        node.until(lambda state: state["repairs"] >= 1 and state["problem"] is None)
        assert REJECT in machine.saved(backend)
