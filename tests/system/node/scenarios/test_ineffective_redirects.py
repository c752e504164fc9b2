"""A redirect that exists and has no effect: `podidctl verify` reports who answers the pods of each node."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import pytest

from podidentity_sandbox.network import METADATA_ADDRESS
from tests.system.node.bed import Bed
from tests.system.node.client import verified
from tests.system.node.processes import wait_for
from tests.system.node.scenario import RECOVERY_SECONDS, Scenarios

pytestmark = pytest.mark.long

SETTINGS: Final = r"^net\.ipv4\.conf\..*\.route_localnet$"
SOMETHING_TO_DO: Final = 3
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


@contextmanager
def rules_gone(bed: Bed) -> Iterator[None]:
    """Stop NMI's process, which then repairs no rule, and flush the redirect. Restore kube-proxy's rules afterwards."""
    node, pid = bed.nodes[0], str(bed.nmi_pid())
    node.run("kill", f"-{signal.SIGSTOP.value}", pid)
    try:
        node.run("iptables", "--table", "nat", "--flush", "PREROUTING")
        yield
    finally:
        node.done("kill", f"-{signal.SIGCONT.value}", pid)
        node.restart_kube_proxy()


@contextmanager
def former_rule(bed: Bed) -> Iterator[None]:
    """Add a rule that maps connections to IMDS before the redirect does."""
    bed.nodes[0].run("sh", "-c", f"echo '{FORMER_RULES}' | nft --file -")
    try:
        yield
    finally:
        bed.nodes[0].run("nft", "delete", "table", "ip", FORMER_TABLE)


@contextmanager
def without_route_localnet(bed: Bed) -> Iterator[None]:
    """Switch route_localnet off on all interfaces: the kernel drops packets that a rule sends to 127.0.0.1."""
    node = bed.nodes[0]
    before = node.run("sysctl", "--all", "--pattern", SETTINGS).splitlines()  # lines of `NAME = VALUE`
    node.run("sysctl", "--write", *(f"{line.split()[0]}=0" for line in before))
    try:
        yield
    finally:
        node.done("sysctl", "--write", *("".join(line.split()) for line in before))


@pytest.mark.parametrize(
    ("fault", "fail_closed", "answered_by"),
    [
        (rules_gone, True, "nothing"),  # the reject remains
        (former_rule, True, "nothing"),
        (without_route_localnet, True, "nothing"),
        # Without a reject, a request past the redirect reaches IMDS.
        (former_rule, False, "imds"),
        (rules_gone, False, "imds"),
    ],
)
def test_verify_reports_who_answers_instead_of_nmi(
    bed: Bed,
    scenarios: Scenarios,
    fault: Callable[[Bed], AbstractContextManager[None]],
    fail_closed: bool,
    answered_by: str,
) -> None:
    name = bed.nodes[0].name
    if not fail_closed:
        bed.install({"nmi": {"failClosed": False}}, command="upgrade")
    try:
        assert verified(bed) == (0, {name: "nmi"})
        with fault(bed):
            assert verified(bed) == (SOMETHING_TO_DO, {name: answered_by})
        bed.wait_for_nmi()
        scenarios.wait_for_recovery(0.0)
        wait_for(lambda: verified(bed) == (0, {name: "nmi"}), RECOVERY_SECONDS, "verify does not report NMI again")
    finally:
        if not fail_closed:
            bed.install(command="upgrade")
