"""Only a host routing of Cilium whose recorded run has passed each test is `tested`."""

import msgspec
import pytest

from tests.realnode import cilium_results
from tests.realnode.cilium_programs import Routing
from tests.realnode.cilium_results import MODULES, CiliumResult

ROUTINGS: tuple[Routing, ...] = ("legacy", "ebpf")


def passed(routing: Routing) -> CiliumResult:
    """Return the result of a run in which all tests for a host routing passed."""
    return CiliumResult(
        routing=routing,
        date="2026-11-28",
        commit="abc1234",
        kernel="6.18.1",
        kubernetes="1.37.2",
        cilium="1.20.2",
        tests=dict.fromkeys(cilium_results.names_of_tests(MODULES[routing]), True),
    )


@pytest.mark.parametrize("routing", ROUTINGS)
def test_without_a_run_a_host_routing_is_expected(routing: Routing) -> None:
    assert cilium_results.status({}, routing, details=True) == "expected"


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_host_routing_whose_tests_passed_is_tested(routing: Routing) -> None:
    results = {routing: passed(routing)}
    assert cilium_results.status(results, routing, details=False) == "tested"
    assert cilium_results.status(results, routing, details=True) == "tested 2026-11-28 abc1234"


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("ran", [True, False], ids=["failed", "missing"])
def test_one_failed_or_missing_test_is_named(routing: Routing, ran: bool) -> None:
    result = passed(routing)
    name = min(result.tests)
    tests = {**result.tests, name: False}
    if not ran:
        del tests[name]
    results = {routing: msgspec.structs.replace(result, tests=tests)}
    assert cilium_results.status(results, routing, details=False) == f"fails ({name})"


def test_the_table_has_a_row_for_each_backend() -> None:
    text = cilium_results.table({"ebpf": passed("ebpf")}, details=False)
    assert "| legacy | `auto` | expected |" in text
    assert "| eBPF | `auto`, `iptables-nft`, `iptables-legacy`, `nftables` | not supported |" in text
    assert "| eBPF | `cilium` | tested |" in text
