"""The two iptables rules of NMI, as data, and the comparison of a table with them.

The redirect leads a pod's requests for IMDS to NMI. The reject (--fail-closed) keeps all other packets for IMDS from
being forwarded to the real one. Each rule is the first rule of a chain of the kernel. The drivers
(`nmi.node.legacy_driver`, `nmi.node.nft_driver`) read and write the tables; `nmi.node.rule_maintenance` keeps the rules
in place.
"""

from dataclasses import dataclass
from typing import Protocol

from nmi.node.rule_text import leads_to, normalized

CHAIN = "aad-metadata"
"""The chain name of the Go implementation, so that NMI on an upgraded node replaces that chain instead of adding a
second one."""


class RedirectError(Exception):
    """A table could not be read or changed this time. A retry may help; the text names what to check."""


class LockHeldError(RedirectError):
    """Another program is writing: it holds the xtables lock, or wrote at the same time without it."""


@dataclass(frozen=True, slots=True)
class TopRule:
    """A rule that is first in a chain of the kernel, exactly once, with the chain of NMI that it jumps to.

    All rules have the syntax of iptables-save, normalised, without "-A" and the chain's name.
    """

    name: str
    """Its name in logs and problems."""
    table: str
    hook: str
    """The chain of the kernel in which it is first."""
    text: str
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


@dataclass(frozen=True, slots=True)
class RedirectSpec:
    """Source and target address of the redirect. Addresses are dotted IPv4, the only family of IMDS."""

    metadata_ip: str
    metadata_port: int
    target_ip: str
    target_port: int

    @property
    def redirect(self) -> TopRule:
        """The redirect. It excludes the node's own processes on loopback, such as NMI, which uses the real IMDS."""
        led = f"! -s 127.0.0.1/32 {self._requests} -j DNAT --to-destination {self.target_ip}:{self.target_port}"
        return TopRule(
            name=f"the redirect of {self.metadata_ip}",
            table="nat",
            hook="PREROUTING",
            text=f"-j {CHAIN}",
            chain=CHAIN,
            rules=(led, "-j RETURN"),
        )

    @property
    def reject(self) -> TopRule:
        """The reject. Redirected packets go to this node itself and are never forwarded, nor are the node's own."""
        return TopRule(
            name=f"the reject of {self.metadata_ip}",
            table="filter",
            hook="FORWARD",
            text=f"{self._requests} -j REJECT --reject-with tcp-reset",
        )

    @property
    def _requests(self) -> str:
        return f"-d {self.metadata_ip}/32 -p tcp -m tcp --dport {self.metadata_port}"


@dataclass(frozen=True, slots=True)
class FoundRules:
    """The rules of NMI that a table holds."""

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
        position, text = self.tops[0]
        if text != rule.text:
            return f"{top} has conditions"
        return None if position == 1 else f"other rules come before {top}"


class IptablesDriver(Protocol):
    """Access to the node's tables. Each call is one consistent read or one atomic change.

    Each raises LockHeldError while another program writes, another RedirectError if it failed this time, and
    podidentity.exits.StartError if only a change outside of NMI helps.
    """

    async def find(self, rule: TopRule) -> FoundRules:
        """Return what exists of *rule*. Changes nothing, except that opening a missing legacy table creates it."""

    async def put(self, rule: TopRule) -> None:
        """Put *rule* in place exactly once, first in its hook. Other rules keep order and counters."""

    async def detach(self, rule: TopRule) -> None:
        """Remove every jump to its chain and keep the chain: no new connection enters it.

        The kernel tracks connections as long as a rule needs it. Connections that the chain has translated stay
        translated while the chain exists, also on a node where no other rule needs tracking.
        """

    async def clear(self, rule: TopRule) -> None:
        """Remove the rule, its chain, and every jump to it. Succeeds if there is nothing to remove."""
