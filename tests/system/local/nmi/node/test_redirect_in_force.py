"""The redirect and the reject in real tables: inserted, removed, inserted over old ones.

Excluded: repair (test_redirect_repair), and packets (test_packets).
"""

import pytest

from tests.support.nmi.node.fixtures import in_every_backend
from tests.support.nmi.node.machines import JUMP, REJECT, Machine, Worker

pytestmark = pytest.mark.root

MATCH = "! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80"
CHAIN = [
    f"-A aad-metadata {MATCH} -j DNAT --to-destination 127.0.0.1:2579",
    "-A aad-metadata -j RETURN",
]
TABLE = """table ip aad-pod-identity {
\tchain forward {
\t\ttype filter hook forward priority -1; policy accept;
\t\tip daddr 169.254.169.254 tcp dport 80 counter packets 0 bytes 0 reject with tcp reset
\t}

\tchain prerouting {
\t\ttype nat hook prerouting priority -101; policy accept;
\t\tip saddr != 127.0.0.1 ip daddr 169.254.169.254 tcp dport 80 counter packets 0 bytes 0 dnat to 127.0.0.1:2579
\t}
}
"""
"""As nft lists NMI's table."""


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


@pytest.mark.parametrize("backend", ["nftables"])
def test_the_table_of_nftables_holds_each_rule_in_its_chain_before_others_and_nothing_else(
    node: Machine, worker: Worker, backend: str
) -> None:
    before = node.saved(backend)
    assert worker.do("install", "reject") is True
    assert worker.do("install") is True
    assert node.run("nft", "-nn", "list", "table", "ip", "aad-pod-identity") == TABLE
    assert node.saved(backend)[: len(before)] == before


@in_every_backend
def test_the_removal_of_one_rule_keeps_the_other(worker: Worker) -> None:
    worker.do("install", "reject")
    worker.do("install")
    assert worker.do("fault", "reject") is None
    worker.do("remove", "reject")
    assert "is missing" in worker.do("fault", "reject")
    assert worker.do("fault") is None


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


@in_every_backend
def test_after_withdrawal_no_new_connection_is_redirected_and_the_chain_remains_for_open_ones(
    node: Machine, worker: Worker, backend: str
) -> None:
    first, before = node.rules(backend, "PREROUTING"), node.saved(backend)
    worker.do("withdraw")
    assert node.saved(backend) == before
    worker.do("install")
    assert worker.do("withdraw") is False
    if backend == "nftables":
        assert worker.do("fault") == "it has been withdrawn"
    else:
        assert node.rules(backend, "PREROUTING") == first
        assert node.rules(backend, "aad-metadata") == CHAIN
    worker.do("withdraw")
    worker.do("remove")
    assert node.saved(backend) == before


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


def test_removal_also_deletes_jumps_from_other_chains(node: Machine, worker: Worker, backend: str) -> None:
    before = node.saved(backend)
    worker.do("install")
    node.run(f"iptables-{backend}", "-t", "nat", "-A", "OUTPUT", "-d", "169.254.169.254", "-j", "aad-metadata")
    node.run(f"iptables-{backend}", "-t", "nat", "-A", "OTHER", "-g", "aad-metadata")
    worker.do("remove")
    assert node.saved(backend) == before


@pytest.mark.parametrize("backend", ["nftables"])
def test_removal_also_removes_what_others_wrote_into_the_table(node: Machine, worker: Worker, backend: str) -> None:
    before = node.saved(backend)
    worker.do("install")
    node.run("nft", "add", "chain", "ip", "aad-pod-identity", "other")
    node.run("nft", "add", "map", "ip", "aad-pod-identity", "m", "{ type ipv4_addr : verdict; }")
    node.run("nft", "add", "element", "ip", "aad-pod-identity", "m", "{ 10.0.0.1 : jump other }")
    worker.do("remove")
    assert node.saved(backend) == before


@pytest.mark.parametrize(("rule", "table"), [("redirect", "nat"), ("reject", "filter")])
def test_the_legacy_backend_opens_only_the_table_of_the_rule(machine: Machine, rule: str, table: str) -> None:
    with Worker(machine, "legacy") as worker:
        worker.do("install", rule)
        assert machine.run("cat", "/proc/net/ip_tables_names").split() == [table]
