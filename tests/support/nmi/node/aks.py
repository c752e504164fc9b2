"""The rule by which AKS blocks IMDS for pods (`az aks … --enable-imds-restriction`), and a node that has it.

Source: Azure/AgentBaker, parts/linux/cloud-init/artifacts/ensure_imds_restriction.sh, commit
1febf6415c57fdad451ba01a3bfe2423ee2e6da5. Run before each start of the kubelet, it inserts this rule at position 1 of
FORWARD, in the table mangle where INSERT_IMDS_RESTRICTION_RULE_TO_MANGLE_TABLE is true and else in filter, unless the
rule is already somewhere in that table. The address is that of the node's primary interface.
"""

from tests.support.nmi.node.machines import Machine

COMMENT = "AKS managed: added by AgentBaker ensureIMDSRestriction for IMDS restriction feature"
TABLES = ("filter", "mangle")


def rule(address: str) -> list[str]:
    """The rule, as the words of an iptables command."""
    words = ["!", "-s", address, "-d", "169.254.169.254/32", "-p", "tcp", "-m", "tcp", "--dport", "80"]
    return [*words, "-m", "comment", "--comment", COMMENT, "-j", "DROP"]


def restrict(node: Machine, backend: str, table: str, address: str = "169.254.0.1") -> None:
    """Insert the rule like the script does when the kubelet starts."""
    if COMMENT not in node.run(f"iptables-{backend}", "-w", "-t", table, "-S"):
        node.run(f"iptables-{backend}", "-w", "-t", table, "-I", "FORWARD", "1", *rule(address))
