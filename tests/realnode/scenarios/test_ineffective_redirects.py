"""A redirect that exists and has no effect: `podidctl verify` reports who answers the pods of each node."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from podidentity_sandbox.network import METADATA_ADDRESS
from tests.realnode.bed import Bed
from tests.realnode.node import Node
from tests.realnode.processes import wait_for
from tests.realnode.scenario import RECOVERY_SECONDS, Scenarios
from tests.realnode.verification import SOMETHING_TO_DO, verify

pytestmark = pytest.mark.long

NMI_ANSWERS: Final = "nmi"
IMDS_ANSWERS: Final = "imds"
NOTHING_ANSWERS: Final = "nothing"
OPEN: Final[dict[str, Any]] = {"nmi": {"failClosed": False}}
SETTING: Final = "net.ipv4.conf.{}.route_localnet"
FORMER_TABLE: Final = "realnode-former"
# A mapping of a connection to its own destination is final: the later chains of nat are skipped. The kernel refuses
# chains of nat before conntrack (-200).
FORMER_RULES: Final = f"""
table ip {FORMER_TABLE} {{
    chain prerouting {{
        type nat hook prerouting priority -150; policy accept;
        ip daddr {METADATA_ADDRESS} tcp dport 80 dnat to {METADATA_ADDRESS}
    }}
}}
"""


@pytest.fixture
def node(bed: Bed, scenarios: Scenarios) -> Iterator[Node]:
    """The node of the test bed, whose pods get tokens again before the test ends."""
    yield bed.nodes[0]
    bed.wait_for_nmi()
    scenarios.wait_for_recovery(0.0, RECOVERY_SECONDS)


@pytest.fixture
def open_bed(bed: Bed) -> Iterator[Bed]:
    """The test bed with rules that end with NMI, so that a request past the redirect reaches IMDS."""
    bed.install(OPEN, command="upgrade")
    yield bed
    bed.install(command="upgrade")


@contextmanager
def stopped_nmi(bed: Bed) -> Iterator[None]:
    """Stop NMI's process, which then repairs no rule. Restore kube-proxy's rules afterwards."""
    pid = str(bed.nmi_pid())
    bed.nodes[0].run("kill", f"-{signal.SIGSTOP.value}", pid)
    try:
        yield
    finally:
        bed.nodes[0].done("kill", f"-{signal.SIGCONT.value}", pid)
        bed.nodes[0].restart_kube_proxy()


@contextmanager
def former_rule(node: Node) -> Iterator[None]:
    """Add a rule that maps connections to IMDS before the redirect does."""
    node.run("sh", "-c", f"echo '{FORMER_RULES}' | nft --file -")
    try:
        yield
    finally:
        node.run("nft", "delete", "table", "ip", FORMER_TABLE)


@contextmanager
def without_route_localnet(node: Node) -> Iterator[None]:
    """Switch route_localnet off on all interfaces: the kernel drops packets that a rule sends to 127.0.0.1."""
    names = node.run("ls", "/proc/sys/net/ipv4/conf").split()
    before = {each: node.run("sysctl", "--values", SETTING.format(each)).strip() for each in names}
    for each in names:
        node.run("sysctl", "--write", f"{SETTING.format(each)}=0")
    try:
        yield
    finally:
        for each, value in before.items():
            node.done("sysctl", "--write", f"{SETTING.format(each)}={value}")


def assert_verified(bed: Bed, answered_by: str) -> None:
    verified = verify(bed)
    code = 0 if answered_by == NMI_ANSWERS else SOMETHING_TO_DO
    assert (verified.code, verified.answered_by) == (code, {bed.nodes[0].name: answered_by}), verified.text


def test_verify_proves_that_nmi_answers(bed: Bed) -> None:
    assert_verified(bed, NMI_ANSWERS)


def test_verify_reports_that_nothing_answers_when_the_rules_are_gone(bed: Bed, node: Node) -> None:
    with stopped_nmi(bed):
        node.run("iptables", "--table", "nat", "--flush", "PREROUTING")
        # The reject remains.
        assert_verified(bed, NOTHING_ANSWERS)


def test_verify_reports_that_nothing_answers_when_another_rule_is_first(bed: Bed, node: Node) -> None:
    with former_rule(node):
        assert_verified(bed, NOTHING_ANSWERS)
    assert_verified(bed, NMI_ANSWERS)


def test_verify_reports_imds_when_another_rule_is_first_and_no_rule_rejects(open_bed: Bed, node: Node) -> None:
    with former_rule(node):
        assert_verified(open_bed, IMDS_ANSWERS)
    assert_verified(open_bed, NMI_ANSWERS)


def test_verify_reports_imds_when_the_rules_are_gone_and_no_rule_rejects(open_bed: Bed, node: Node) -> None:
    with stopped_nmi(open_bed):
        node.run("iptables", "--table", "nat", "--flush", "PREROUTING")
        assert_verified(open_bed, IMDS_ANSWERS)


def test_verify_reports_that_nothing_answers_without_route_localnet(bed: Bed, node: Node) -> None:
    with without_route_localnet(node):
        assert_verified(bed, NOTHING_ANSWERS)
    wait_for(lambda: verify(bed).code == 0, RECOVERY_SECONDS, "verify does not report NMI again")
