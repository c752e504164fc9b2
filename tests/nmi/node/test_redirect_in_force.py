"""The redirect and the reject in real tables: inserted, removed, inserted over old ones.

Excluded: repair (test_redirect_repair), what is particular to nftables (test_nftables_in_force), and packets.
"""

import pytest

from tests.nmi.node.machines import Machine, Worker

pytestmark = pytest.mark.root

MATCH = "! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80"
CHAIN = [
    f"-A aad-metadata {MATCH} -j DNAT --to-destination 127.0.0.1:2579",
    "-A aad-metadata -j RETURN",
]
JUMP = "-A PREROUTING -j aad-metadata"
REJECT = "-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"

in_every_backend = pytest.mark.parametrize("backend", ["nft", "legacy", "nftables"], indirect=True)


def test_the_rule_equals_the_go_implementations_and_is_first(node: Machine, worker: Worker, backend: str) -> None:
    before = node.rules(backend, "PREROUTING")
    assert worker.do("install") is True
    assert node.rules(backend, "aad-metadata") == CHAIN
    assert node.rules(backend, "PREROUTING") == [JUMP, *before]


def test_the_reject_rule_is_first_and_only_in_its_table(node: Machine, worker: Worker, backend: str) -> None:
    before = node.rules(backend, "FORWARD")
    nat = node.run(f"iptables-{backend}-save", "-c", "-t", "nat").splitlines()[1:-1]
    assert worker.do("install", "reject") is True
    assert node.rules(backend, "FORWARD") == [REJECT, *before]
    assert node.run(f"iptables-{backend}-save", "-c", "-t", "nat").splitlines()[1:-1] == nat


@in_every_backend
@pytest.mark.parametrize("rule", ["redirect", "reject"])
def test_removal_restores_the_previous_rules_and_may_be_repeated(
    node: Machine, worker: Worker, backend: str, rule: str
) -> None:
    before = node.saved(backend)
    worker.do("remove", rule)
    assert node.saved(backend) == before
    worker.do("install", rule)
    assert node.saved(backend) != before
    for _ in range(2):
        assert worker.do("remove", rule) is False
        assert node.saved(backend) == before


def test_after_withdrawal_no_new_connection_is_redirected_and_the_chain_remains_for_open_ones(
    node: Machine, worker: Worker, backend: str
) -> None:
    before, elsewhere = node.rules(backend, "PREROUTING"), node.saved(backend)
    worker.do("install")
    assert worker.do("withdraw") is False
    assert node.rules(backend, "PREROUTING") == before
    assert node.rules(backend, "aad-metadata") == CHAIN
    worker.do("withdraw")
    worker.do("remove")
    assert node.saved(backend) == elsewhere


@in_every_backend
def test_installing_again_after_a_kill_or_for_another_port_leaves_exactly_one_rule(
    node: Machine, worker: Worker, backend: str
) -> None:
    worker.do("install")
    once = node.saved(backend)
    worker.kill()
    with Worker(node, backend) as next_one:
        next_one.do("install")
        assert node.saved(backend) == once
        next_one.do("install", "redirect", 9999)
        assert node.saved(backend) == [line.replace(":2579", ":9999") for line in once]


def test_a_reject_rule_of_an_earlier_nmi_is_taken_over(node: Machine, worker: Worker, backend: str) -> None:
    node.run(f"iptables-{backend}", "-A", *REJECT.split()[1:])
    before = [line for line in node.rules(backend, "FORWARD") if line != REJECT]
    worker.do("install", "reject")
    assert node.rules(backend, "FORWARD") == [REJECT, *before]


def test_removal_also_deletes_jumps_from_other_chains(node: Machine, worker: Worker, backend: str) -> None:
    before = node.saved(backend)
    worker.do("install")
    node.run(f"iptables-{backend}", "-t", "nat", "-A", "OUTPUT", "-d", "169.254.169.254", "-j", "aad-metadata")
    node.run(f"iptables-{backend}", "-t", "nat", "-A", "OTHER", "-g", "aad-metadata")
    worker.do("remove")
    assert node.saved(backend) == before


def test_the_rule_is_installed_on_a_node_without_rules_too(machine: Machine, backend: str) -> None:
    with Worker(machine, backend) as worker:
        worker.do("install")
        assert machine.rules(backend, "aad-metadata") == CHAIN
        assert machine.rules(backend, "PREROUTING") == [JUMP]
        worker.do("remove")
    assert not [line for line in machine.saved(backend) if line.startswith("-A")]


def test_a_check_changes_nothing(node: Machine, worker: Worker, backend: str) -> None:
    before = node.run(f"iptables-{backend}-save", "-c", "-t", "nat").splitlines()[1:-1]
    assert worker.do("fault") == "the chain is missing"
    assert node.run(f"iptables-{backend}-save", "-c", "-t", "nat").splitlines()[1:-1] == before


@pytest.mark.parametrize(("rule", "table"), [("redirect", "nat"), ("reject", "filter")])
def test_the_legacy_backend_opens_only_the_table_of_the_rule(machine: Machine, rule: str, table: str) -> None:
    with Worker(machine, "legacy") as worker:
        worker.do("install", rule)
        assert machine.run("cat", "/proc/net/ip_tables_names").split() == [table]
