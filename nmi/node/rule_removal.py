"""Removal of NMI's rules from a node on which NMI must write none: a node with eBPF host routing.

It covers the rules of every backend, also those of an NMI with other settings, and the guard of 127.0.0.1. That guard
goes only when route_localnet is off: without it the node would expose its loopback services (CVE-2020-8558).
"""

import asyncio
import logging
from functools import partial
from typing import Never

from nmi.node import leftovers, route_localnet
from nmi.node.host_routing import ADVICE, LABEL
from nmi.node.node_facts import NodeReading, existing_legacy_tables
from nmi.node.redirect_choice import Backend
from nmi.node.rule_maintenance import retry_while_locked
from nmi.node.rules import RedirectError, RedirectSpec
from nmi.subprocesses import ProgramTimeoutError
from podidentity.exits import StartError

log = logging.getLogger(__name__)


class RuleRemoval:
    """The removal on one node: run() when the label is known, and maintain() as a task of the owner."""

    def __init__(self, node: NodeReading, to: RedirectSpec) -> None:
        self._node = node
        self._to = to
        self._lock = asyncio.Lock()
        self._remaining: str | None = None

    def problem(self) -> str:
        """Return why pods are not redirected, with the next action, and which rule remains."""
        remaining = f"; {self._remaining}" if self._remaining is not None else ""
        return f"the node has the label {LABEL}=true, so NMI writes no rule; {ADVICE}{remaining}"

    async def run(self) -> None:
        """Remove what exists. A failure is logged, and a part of problem(). Waits for a held lock."""
        async with self._lock:
            await self._run()

    async def _run(self) -> None:
        former = self._remaining
        try:
            removed = await leftovers.remove(self._node.programs, self._to, keep=Backend.NONE)
            self._remaining = await self._remove_guard()
        except (StartError, RedirectError, ProgramTimeoutError) as error:
            removed = []
            self._remaining = f"a rule of NMI could not be removed: {error}"
        for line in removed:
            log.warning("rule removed from a node with eBPF host routing", extra={"reason": line})
        if self._remaining is not None and self._remaining != former:
            log.error(
                "a rule remains on a node with eBPF host routing, where it may keep Cilium from starting; see the "
                "reason, NMI retries at the interval",
                extra={"reason": self._remaining},
            )

    async def maintain(self, seconds: float) -> Never:
        """Remove what exists now and at every interval: other programs may write rules of NMI later."""
        while True:
            await self.run()
            await asyncio.sleep(seconds)

    async def _remove_guard(self) -> str | None:
        """Remove the guard. Return why it remains; None if there is none."""
        backends: list[Backend] = []
        if self._node.facts.iptables_nft is not None:
            backends.append(Backend.IPTABLES_NFT)
        if "filter" in await asyncio.to_thread(existing_legacy_tables):
            backends.append(Backend.IPTABLES_LEGACY)
        for iptables in filter(None, map(self._node.programs.iptables, backends)):
            if not await route_localnet.has_guard(iptables):
                continue
            if await asyncio.to_thread(route_localnet.is_on_anywhere):
                return (
                    f"the guard of 127.0.0.1 in filter/INPUT remains, because route_localnet is on; run "
                    f"`{route_localnet.COMMAND_OFF}` on the node"
                )
            await retry_while_locked(partial(route_localnet.remove_guard, iptables))
            log.warning("guard of 127.0.0.1 removed from a node with eBPF host routing; route_localnet is off")
        return None
