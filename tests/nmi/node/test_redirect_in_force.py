"""The redirect in real tables: inserted, removed, inserted over an old one. Excluded: test_redirect_repair."""

import pytest

from tests.nmi.node.machines import Machine, Worker

pytestmark = pytest.mark.root

MATCH = "! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80"
CHAIN = [
    f"-A aad-metadata {MATCH} -j DNAT --to-destination 127.0.0.1:2579",
    "-A aad-metadata -j RETURN",
]
JUMP = "-A PREROUTING -j aad-metadata"


def test_the_rule_is_the_one_of_the_reference_and_comes_first(node: Machine, worker: Worker, backend: str) -> None:
    before = node.rules(backend, "PREROUTING")
    assert worker.do("install") is True
    assert node.rules(backend, "aad-metadata") == CHAIN
    assert node.rules(backend, "PREROUTING") == [JUMP, *before]


def test_after_removal_everything_is_as_it_was(node: Machine, worker: Worker, backend: str) -> None:
    before = node.saved(backend)
    worker.do("install")
    assert node.saved(backend) != before
    assert worker.do("remove") is False
    assert node.saved(backend) == before


def test_withdrawn_it_leads_nobody_new_and_its_chain_stays_for_what_is_open(
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


def test_removing_twice_or_without_having_installed_is_fine(node: Machine, worker: Worker, backend: str) -> None:
    before = node.saved(backend)
    worker.do("remove")
    worker.do("install")
    worker.do("remove")
    worker.do("remove")
    assert node.saved(backend) == before


def test_installing_again_after_a_kill_leaves_exactly_one_rule(node: Machine, worker: Worker, backend: str) -> None:
    worker.do("install")
    once = node.saved(backend)
    worker.kill()
    with Worker(node, backend) as next_one:
        next_one.do("install")
        assert node.saved(backend) == once


def test_a_rule_to_another_port_is_replaced(node: Machine, worker: Worker, backend: str) -> None:
    worker.do("install")
    once = node.saved(backend)
    worker.do("install", "redirect", 9999)
    assert node.saved(backend) == [line.replace(":2579", ":9999") for line in once]


def test_removal_takes_along_jumps_that_others_put_elsewhere(node: Machine, worker: Worker, backend: str) -> None:
    before = node.saved(backend)
    worker.do("install")
    node.run(f"iptables-{backend}", "-t", "nat", "-A", "OUTPUT", "-d", "169.254.169.254", "-j", "aad-metadata")
    node.run(f"iptables-{backend}", "-t", "nat", "-A", "OTHER", "-g", "aad-metadata")
    worker.do("remove")
    assert node.saved(backend) == before


def test_a_node_without_any_rules_takes_the_rule_too(backend: str) -> None:
    machine = Machine()
    try:
        with Worker(machine, backend) as worker:
            worker.do("install")
            assert machine.rules(backend, "aad-metadata") == CHAIN
            assert machine.rules(backend, "PREROUTING") == [JUMP]
            worker.do("remove")
        assert not [line for line in machine.saved(backend) if line.startswith("-A")]
    finally:
        machine.close()


def test_looking_changes_nothing(node: Machine, worker: Worker, backend: str) -> None:
    before = node.run(f"iptables-{backend}-save", "-c", "-t", "nat").splitlines()[1:-1]
    assert worker.do("fault") == "the chain is missing"
    assert node.run(f"iptables-{backend}-save", "-c", "-t", "nat").splitlines()[1:-1] == before


def test_the_driver_of_the_legacy_backend_opens_no_table_but_nat() -> None:
    machine = Machine()
    try:
        with Worker(machine, "legacy") as worker:
            worker.do("install")
            assert machine.run("cat", "/proc/net/ip_tables_names").split() == ["nat"]
    finally:
        machine.close()
