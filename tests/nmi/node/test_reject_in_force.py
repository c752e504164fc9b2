"""The reject in real tables: inserted, kept first, removed. Excluded: its effect on packets (test_packets)."""

import pytest

from tests.nmi.node.machines import Machine, Worker

pytestmark = pytest.mark.root

TEXT = "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"
REJECT = f"-A FORWARD {TEXT}"
OTHERS = """*filter
:FORWARD DROP [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 8080 -j REJECT --reject-with tcp-reset
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
"""
DAMAGES = {
    "it is deleted": (["-D FORWARD 1"], "the rule is missing"),
    "the chain is flushed": (["-F FORWARD"], "the rule is missing"),
    "a rule is put before it": (["-I FORWARD 1 -p udp -j ACCEPT"], "other rules come before the rule"),
    "it is doubled": ([f"-A FORWARD {TEXT}"], "the rule is there more than once"),
    "it gets a condition": ([f"-R FORWARD 1 -i eth9 {TEXT}"], "the rule is missing"),
    "it answers otherwise": (
        ["-R FORWARD 1 -d 169.254.169.254 -p tcp --dport 80 -j REJECT"],
        "the rule is missing",
    ),
    "it becomes an accept": (["-R FORWARD 1 -d 169.254.169.254 -p tcp --dport 80 -j ACCEPT"], "the rule is missing"),
}


@pytest.fixture
def filtering(node: Machine, backend: str) -> Machine:
    node.run(f"iptables-{backend}-restore", given=OTHERS)
    return node


def forward(machine: Machine, backend: str) -> list[str]:
    return machine.rules(backend, "FORWARD")


def test_the_reject_rule_is_first_and_foreign_rules_are_unchanged(
    filtering: Machine, worker: Worker, backend: str
) -> None:
    before = forward(filtering, backend)
    assert worker.do("install", "reject") is True
    assert forward(filtering, backend) == [REJECT, *before]


def test_removal_restores_the_previous_rules(filtering: Machine, worker: Worker, backend: str) -> None:
    before = filtering.saved(backend)
    worker.do("install", "reject")
    worker.do("remove", "reject")
    assert filtering.saved(backend) == before
    worker.do("remove", "reject")
    assert filtering.saved(backend) == before


def test_a_reject_rule_of_an_earlier_nmi_is_taken_over(filtering: Machine, worker: Worker, backend: str) -> None:
    filtering.run(f"iptables-{backend}", "-A", *REJECT.split()[1:])
    before = [line for line in forward(filtering, backend) if line != REJECT]
    worker.do("install", "reject")
    assert forward(filtering, backend) == [REJECT, *before]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_rule_is_found_and_repaired(filtering: Machine, worker: Worker, backend: str, damage: str) -> None:
    worker.do("install", "reject")
    commands, fault = DAMAGES[damage]
    for command in commands:
        filtering.run(f"iptables-{backend}", "-w", *command.split())
    assert worker.do("fault", "reject") == fault
    assert worker.do("verify") is True
    lines = forward(filtering, backend)
    assert lines[0] == REJECT
    assert lines.count(REJECT) == 1
    assert worker.do("verify") is False


def test_foreign_rules_and_their_counters_survive(filtering: Machine, worker: Worker, backend: str) -> None:
    counted = "*filter\n[7:700] -A KUBE-FORWARD -s 10.9.9.9/32 -j RETURN\nCOMMIT\n"
    filtering.run(f"iptables-{backend}-restore", "--noflush", "--counters", given=counted)
    for action in ("install", "remove"):
        worker.do(action, "reject")
        saved = filtering.run(f"iptables-{backend}-save", "-c", "-t", "filter")
        assert "[7:700] -A KUBE-FORWARD -s 10.9.9.9/32 -j RETURN" in saved


def test_the_nat_table_is_not_touched(filtering: Machine, worker: Worker, backend: str) -> None:
    nat = filtering.run(f"iptables-{backend}-save", "-c", "-t", "nat").splitlines()[1:-1]
    worker.do("install", "reject")
    assert filtering.run(f"iptables-{backend}-save", "-c", "-t", "nat").splitlines()[1:-1] == nat


def test_the_legacy_backend_opens_only_the_filter_table() -> None:
    machine = Machine()
    try:
        with Worker(machine, "legacy") as worker:
            worker.do("install", "reject")
            assert machine.run("cat", "/proc/net/ip_tables_names").split() == ["filter"]
    finally:
        machine.close()
