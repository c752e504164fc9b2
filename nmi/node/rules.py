"""The two rules of NMI, as data for iptables and for nftables, and the comparison of a table with them.

The redirect leads a pod's requests for IMDS to NMI. The reject (--fail-closed) keeps all other packets for IMDS from
being forwarded to the real one. With iptables each rule is the first rule of a chain of the kernel; with nftables it is
the only rule of a chain in NMI's own table, at a priority before the chains of iptables. The drivers
(`nmi.node.legacy_driver`, `nmi.node.nft_driver`, `nmi.node.nftables_driver`) read and write the tables;
`nmi.node.rule_maintenance` keeps the rules in place.
"""

import json
from typing import Protocol

import msgspec

from nmi.node.rule_text import leads_to, normalized

CHAIN = "aad-metadata"
"""The chain name of the Go implementation, so that NMI on an upgraded node replaces that chain instead of adding a
second one."""

TABLE = "aad-pod-identity"
"""NMI's table of nftables, of the family ip."""

PRIORITY_BEFORE_DNAT = -101
"""One before NF_IP_PRI_NAT_DST, the priority of iptables and of kube-proxy: the first nat mapping of a connection is
the only one."""

PRIORITY_BEFORE_FILTER = -1
"""One before NF_IP_PRI_FILTER."""


class RedirectError(Exception):
    """A table could not be read or changed this time. A retry may help; the text names what to check."""


class LockHeldError(RedirectError):
    """Another program is writing: it holds the xtables lock, or wrote at the same time without it."""


class BaseChain(msgspec.Struct, frozen=True):
    """A chain of NMI's own table of nftables, which the kernel enters at a hook, with one rule."""

    name: str
    """No word of nft's grammar, such as `redirect`: programs load the output of `nft list ruleset` again."""
    type: str
    hook: str
    priority: int
    expressions: tuple[str, ...]
    """The rule without its counter: each expression in the JSON of libnftables, with sorted keys."""


class TopRule(msgspec.Struct, frozen=True):
    """A rule that is first in a chain of the kernel, exactly once, with the chain of NMI that it jumps to.

    All rules have the syntax of iptables-save, normalised, without "-A" and the chain's name.
    """

    name: str
    """Its name in logs and problems."""
    table: str
    hook: str
    """The chain of the kernel in which it is first."""
    text: str
    base: BaseChain
    """The base chain of the same rule in nftables."""
    chain: str = ""
    """The chain of NMI in the same table that it jumps to; "" for a rule without a chain."""
    rules: tuple[str, ...] = ()
    """The rules of that chain, in order."""

    @property
    def target(self) -> str:
        """The jump target."""
        return self.text.partition("-j ")[2].partition(" ")[0]

    def is_ours(self, rule: str) -> bool:
        """Return whether *rule* of the same table is this one or an old form of it.

        Every jump to NMI's chain is. Of rules without a chain only an equal one is, so that rules of other programs are
        not touched.
        """
        return leads_to(rule, self.chain) if self.chain else normalized(rule) == self.text


class RedirectSpec(msgspec.Struct, frozen=True):
    """Source and target address of the redirect. Addresses are dotted IPv4, the only family of IMDS."""

    metadata_ip: str
    metadata_port: int
    target_ip: str
    target_port: int

    @property
    def redirect(self) -> TopRule:
        """The redirect. It excludes the node's own processes on loopback, such as NMI, which uses the real IMDS."""
        dnat = f"! -s 127.0.0.1/32 {self._requests} -j DNAT --to-destination {self.target_ip}:{self.target_port}"
        return TopRule(
            name=f"the redirect of {self.metadata_ip}",
            table="nat",
            hook="PREROUTING",
            text=f"-j {CHAIN}",
            base=BaseChain(
                "prerouting",
                "nat",
                "prerouting",
                PRIORITY_BEFORE_DNAT,
                (
                    _match("!=", "ip", "saddr", "127.0.0.1"),
                    *self._matches,
                    _json({"dnat": {"addr": self.target_ip, "port": self.target_port}}),
                ),
            ),
            chain=CHAIN,
            # The Go implementation's chain ends with this rule too.
            rules=(dnat, "-j RETURN"),
        )

    @property
    def reject(self) -> TopRule:
        """The reject. Redirected packets go to this node itself and are never forwarded, nor are the node's own."""
        return TopRule(
            name=f"the reject of {self.metadata_ip}",
            table="filter",
            hook="FORWARD",
            text=f"{self._requests} -j REJECT --reject-with tcp-reset",
            base=BaseChain(
                "forward",
                "filter",
                "forward",
                PRIORITY_BEFORE_FILTER,
                (*self._matches, _json({"reject": {"type": "tcp reset"}})),
            ),
        )

    @property
    def _requests(self) -> str:
        return f"-d {self.metadata_ip}/32 -p tcp -m tcp --dport {self.metadata_port}"

    @property
    def _matches(self) -> tuple[str, ...]:
        return _match("==", "ip", "daddr", self.metadata_ip), _match("==", "tcp", "dport", self.metadata_port)


def _match(operator: str, protocol: str, field: str, value: str | int) -> str:
    left = {"payload": {"protocol": protocol, "field": field}}
    return _json({"match": {"op": operator, "left": left, "right": value}})


def _json(expression: object) -> str:
    return json.dumps(expression, sort_keys=True)


class RuleState(Protocol):
    """The state of one rule in a backend."""

    @property
    def nothing(self) -> bool:
        """Return whether it holds no part of the rule."""

    def fault(self, rule: TopRule) -> str | None:
        """Return why *rule* is not in force exactly once and before other rules; None if it is."""


class IptablesRuleState(msgspec.Struct, frozen=True):
    """The rules of NMI that a table of iptables holds."""

    tops: tuple[tuple[int, str], ...]
    """Each rule of the hook that is NMI's, with its position from 1."""
    rules: tuple[str, ...] | None = None
    """The rules of NMI's chain; None if there is no such chain."""

    @property
    def nothing(self) -> bool:
        return self.rules is None and not self.tops

    def fault(self, rule: TopRule) -> str | None:
        """Return why *rule* is not in force exactly once and before all other rules; None if it is."""
        if rule.chain and self.rules is None:
            return "the chain is missing"
        if rule.chain and self.rules != rule.rules:
            return "the chain holds other rules"
        top = "the jump" if rule.chain else "the rule"
        if not self.tops:
            return f"{top} is missing"
        if len(self.tops) > 1:
            return f"{top} is there more than once"
        # A rule before it could accept or translate the packet first.
        position, text = self.tops[0]
        if text != rule.text:
            return f"{top} has conditions"
        return None if position == 1 else f"other rules come before {top}"


class RuleDriver(Protocol):
    """Access to the node's tables. Each call is one consistent read or one atomic change.

    Each raises LockHeldError while another program writes, another RedirectError if it failed this time, and
    podidentity.exits.StartError if only a change outside of NMI helps.
    """

    async def find(self, rule: TopRule) -> RuleState:
        """Return what exists of *rule*. Changes nothing, except that opening a missing legacy table creates it."""

    async def packets(self, rule: TopRule) -> int | None:
        """Return how many packets have matched *rule* since it was written, for nat the first ones of connections;
        None if it is not in force."""

    async def put(self, rule: TopRule) -> None:
        """Put *rule* in place exactly once, first in its hook. Other rules keep order and counters."""

    async def detach(self, rule: TopRule) -> None:
        """Remove the jumps to its chain, with nftables the rule from its hook, and keep the chain: no new connection
        is affected.

        The kernel tracks connections as long as a rule needs it. Connections that the chain has translated stay
        translated while the chain exists, also on a node where no other rule needs tracking.
        """

    async def clear(self, rule: TopRule) -> None:
        """Remove the rule, its chain, and every jump to it. Succeeds if there is nothing to remove."""
