"""The rules that Cilium's agent of AKS accepts on a node with eBPF host routing, in our own words.

Its init container ends, and the agent starts, when each line of every table of iptables matches: a new chain, a
policy, a rule in or to a chain of Kubernetes' firewall, the masquerade agent or Cilium, and a rule with a comment of
Cilium or of AgentBaker. The few rules for AKS's own addresses are left out, because NMI's are none of them.
"""

import re
from collections.abc import Iterable

_CHAINS = r"(?:KUBE-FIREWALL|IP-MASQ-AGENT|CILIUM_\w+)"
_COMMENT = r'--comment "?(?:cilium:|cilium-feeder:|AKS managed: added by AgentBaker)'
ALLOWED = tuple(
    map(
        re.compile,
        (
            r":.*",  # a chain or a policy, as iptables-save prints it
            r"\*.*|COMMIT",
            rf"-A {_CHAINS} .*",
            rf"-A .* -j {_CHAINS}(?: .*)?",
            rf"-A .*{_COMMENT}.*",
        ),
    )
)


def unexpected(saved: Iterable[str]) -> list[str]:
    """Return the lines of iptables-save for which the agent would not start."""
    return [line for line in saved if not any(each.fullmatch(line) for each in ALLOWED)]
