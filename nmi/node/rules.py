"""The two iptables rules of NMI, as data, and the comparison of what a table holds with what it must hold.

The redirect leads a pod's requests for IMDS to NMI. The reject (--fail-closed) keeps all other packets for IMDS from
being forwarded to the real one. Each rule is the first rule of a chain of the kernel. The drivers
(`nmi.node.legacy_driver`, `nmi.node.nft_driver`) read and write the tables; `nmi.node.rule_maintenance` keeps the rules
in place.
"""

from dataclasses import dataclass
from typing import Protocol

from nmi.node.rule_text import leads_to, normalized

CHAIN = "aad-metadata"
"""As the reference names it: so an NMI that takes over a node replaces the reference's chain and adds no second one."""


class RedirectError(Exception):
    """A table could not be read or changed this time. Trying again may help; the text says what to look at."""


class LockHeldError(RedirectError):
    """Another program is writing: it holds the xtables lock, or wrote at the same moment without taking it."""


@dataclass(frozen=True, slots=True)
class TopRule:
    """A rule that stands first in a chain of the kernel's, exactly once, with the chain of ours that it leads to.

    All rules are in iptables-save's words, normalised, without "-A" and the chain's name.
    """

    name: str
    """What logs and problems call it."""
    table: str
    hook: str
    """The chain of the kernel's that it stands first in."""
    text: str
    chain: str = ""
    """The chain of ours in the same table that it jumps to; "" for a rule that is complete by itself."""
    rules: tuple[str, ...] = ()
    """What that chain holds, in order."""

    @property
    def target(self) -> str:
        """What it jumps to."""
        return self.text.partition("-j ")[2].partition(" ")[0]

    def is_ours(self, rule: str) -> bool:
        """Whether *rule* of the same table is this one or an old form of it.

        Whatever leads to our chain is; of rules without a chain only an equal one, so that nobody else's is touched.
        """
        return leads_to(rule, self.chain) if self.chain else normalized(rule) == self.text


@dataclass(frozen=True, slots=True)
class RedirectSpec:
    """From where to where pods are led. Addresses are dotted IPv4: IMDS knows no other."""

    metadata_ip: str
    metadata_port: int
    target_ip: str
    target_port: int

    @property
    def redirect(self) -> TopRule:
        """The node's own processes on loopback are left alone, NMI's first of all: it asks the real IMDS."""
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
        """What was redirected is for this node itself and never forwarded; nor is what the node itself sends."""
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
    """What a table holds of one rule of ours."""

    tops: tuple[tuple[int, str], ...]
    """Each rule of the hook that is ours, with its position from 1."""
    rules: tuple[str, ...] | None = None
    """The rules of our chain; None when there is no such chain."""

    @property
    def nothing(self) -> bool:
        return self.rules is None and not self.tops

    def fault(self, rule: TopRule) -> str | None:
        """What keeps *rule* from being in force exactly once and before everything else; None when nothing does."""
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
    """One way to the node's tables. Each call is one consistent look or one atomic change.

    Each raises LockHeldError while somebody else writes, another RedirectError when it failed for now, and
    podidentity.exits.StartError when nothing but a change outside of NMI will help.
    """

    async def find(self, rule: TopRule) -> FoundRules:
        """What is there of *rule*. Changes nothing, unless the legacy table did not exist: opening makes it."""

    async def put(self, rule: TopRule) -> None:
        """Make *rule* what is there, exactly once, first in its hook; other rules keep order and counters."""

    async def detach(self, rule: TopRule) -> None:
        """Remove everything that leads to its chain, and leave the chain: nothing new goes there.

        The kernel tracks connections for as long as some rule needs it to; what the chain has translated goes on being
        translated while it stands, also on a node where nothing else needs that.
        """

    async def clear(self, rule: TopRule) -> None:
        """Remove it, its chain, and everything that leads there; nothing to remove is fine."""
