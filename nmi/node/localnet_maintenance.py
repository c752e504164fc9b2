"""Maintenance of route_localnet and of its guard for a redirect to 127.0.0.1."""

import asyncio
import logging
from typing import Never

from nmi.node import route_localnet
from nmi.node.rule_maintenance import retry_while_locked
from podidentity.exits import StartError

log = logging.getLogger(__name__)


class LocalnetMaintenance:
    """The setting of one node: ensure() when NMI listens, and maintain() as a task of the owner."""

    def __init__(self, target_ip: str, *, sets: bool, iptables: str | None) -> None:
        """*sets*: whether NMI switches it on. *iptables*: the program that then inserts the guard."""
        self._target_ip = target_ip
        self._sets = sets
        self._iptables = iptables
        self.problem: str | None = None
        """Why the kernel does not deliver pods' requests to NMI, with the next action; None if it does."""

    async def ensure(self) -> None:
        """Check the setting, and with `set` correct it and the guard. Raises StartError."""
        if not route_localnet.needed(self._target_ip):
            return
        problem = await asyncio.to_thread(route_localnet.fault)
        if self._sets:
            iptables = self._iptables
            if iptables is None:
                raise StartError(
                    "--route-localnet=set needs the iptables program of this node's backend in NMI's image"
                )
            # The guard first, so that route_localnet is never on without it.
            if await retry_while_locked(lambda: route_localnet.ensure_guard(iptables)):
                log.info("guard of this node's 127.0.0.1 added to filter/INPUT; it stays there when NMI stops")
            if problem:
                await asyncio.to_thread(route_localnet.switch_on)
                problem = await asyncio.to_thread(route_localnet.fault)
                log.info("route_localnet switched on; it stays on when NMI stops")
        if problem and problem != self.problem:
            log.error(
                "pods are not redirected to NMI until route_localnet is on; run the command in the reason",
                extra={"reason": problem},
            )
        self.problem = problem

    async def maintain(self, seconds: float) -> Never:
        """Verify at every interval. Failures are logged, and retried at the next one."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.ensure()
            except (StartError, OSError) as error:
                self.problem = str(error)
                log.error(  # noqa: TRY400  the message is complete
                    "route_localnet could not be verified; see the error, NMI retries at the next interval",
                    extra={"error": self.problem},
                )
