"""Evidence whether the redirect has an effect. A rule that exists proves nothing: packets can bypass netfilter, and
another program's rule can translate them first.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import Final, Never

from nmi.node.connect_redirect import ConnectRedirect
from nmi.node.redirect_choice import Backend, NodeFacts, bypass
from nmi.node.rules import RedirectError
from podidentity.exits import StartError

log = logging.getLogger(__name__)

LIST_EVERY: Final = 5
"""Verifications without a new match per listing of connections, since conntrack reads the whole table of the kernel."""

Connections = AbstractSet[tuple[str, int]]


class RedirectEffect:
    """The evidence of one node. The owner runs maintain() as a task."""

    def __init__(
        self,
        facts: NodeFacts,
        backend: Backend,
        packets: Callable[[], Awaitable[int | None]],
        bypassing: Callable[[], Awaitable[Connections | None]],
        repairs: Callable[[], int],
        *,
        connect: ConnectRedirect,
    ) -> None:
        """Store the sources: *packets* counts matches of the rule since it was written, *bypassing* lists connections
        of pods to the real IMDS (each may return None), and *repairs* counts how often the rule was missing.
        """
        self._facts = facts
        self._backend = backend
        self._packets = packets
        self._bypassing = bypassing
        self._repairs = repairs
        self._connect = connect
        self._repaired = 0
        self._listed: Connections | None = None
        """The bypassing connections at the last listing."""
        self._checks = 0
        self._observed: str | None = None
        self.redirected = False
        """Whether a packet has matched the rule."""
        self.packets = 0
        """Matches of the rule since it was written, at the last check."""

    def problem(self) -> str | None:
        """Return why pods' requests are not redirected although the rule exists; None if nothing shows that."""
        replaced = None if self.redirected else self._connect.problem()
        return replaced or bypass(self._facts, self._backend, redirected=self.redirected) or self._observed

    async def check(self) -> None:
        """Compare the rule's counter and the bypassing connections with those of the last check."""
        await self._check_connect()
        packets = await self._packets()
        if packets is None:
            return  # the rule is not in force, which its verification reports
        matched = packets != self.packets and packets > 0
        self.packets = packets
        if self._repairs() != self._repaired:
            self._repaired = self._repairs()
            self._listed = None  # connections from the time without the rule prove nothing about the rule
        if matched:
            # A match is proof that packets pass netfilter, so earlier signs of a bypass no longer count.
            self.redirected = True
            self._observed = self._listed = None  # a later listing is compared with one after this match
            self._checks = 0
            return
        self._checks += 1
        # Pods determine how long the list is, so it is not read at each verification.
        if self._listed is not None and self._checks % LIST_EVERY:
            return
        connections = await self._bypassing()
        new = len(connections - self._listed) if connections is not None and self._listed is not None else 0
        self._listed = connections
        if new:
            self._report(new)

    async def maintain(self, seconds: float) -> Never:
        """Check at every interval. Failures are logged, and retried at the next one."""
        await self._check_connect()
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.check()
            except (StartError, RedirectError) as error:
                log.error(  # noqa: TRY400  the message is complete
                    "the redirect's effect could not be verified; see the error, NMI retries at the next interval",
                    extra={"error": str(error)},
                )

    async def _check_connect(self) -> None:
        former = self._connect.problem()
        await self._connect.check()
        problem = self._connect.problem()
        if problem is not None and former is None:
            log.error("connections to IMDS are redirected before the rule; see the reason", extra={"reason": problem})

    def _report(self, count: int) -> None:
        problem = (
            f"new connections of pods to the real IMDS: {count}, and none matched the redirect: pods' packets bypass "
            f"netfilter, or a rule of another program is effective first; compare `nft list ruleset`, and see "
            f"docs/data-planes.md for a node with eBPF host routing"
        )
        if self._observed is None:
            log.error("pods reach the real IMDS past the redirect; see the reason", extra={"reason": problem})
        self._observed = problem
