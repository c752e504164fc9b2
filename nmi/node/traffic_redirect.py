"""The redirect of pods' requests to NMI, for `nmi.app`: prepared, installed, maintained and removed."""

import asyncio
import logging

from nmi.flag_table import RedirectMode, RouteLocalnetMode
from nmi.node import conntrack, kubenet, route_localnet
from nmi.node.backend import Backend, DetectedBackend, detect
from nmi.node.flush_guard import FlushGuard
from nmi.node.legacy_driver import LOCK, LegacyDriver
from nmi.node.nft_driver import NftDriver
from nmi.node.rule_changes import ChangeSource, LockReleases, NftChanges, RuleChangeNotifier
from nmi.node.rule_maintenance import RuleMaintenance, retry_while_locked
from nmi.node.rules import IptablesDriver, RedirectError, RedirectSpec
from nmi.settings import Settings
from podidentity.exits import StartError

log = logging.getLogger(__name__)


class TrafficRedirect:
    """The node's side of one NMI: prepare(), then maintain() as a task of the owner, install(), and finally remove().

    The owner ends maintain() before remove(), because maintain() would restore the rules.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._to = redirect_spec(settings)
        self._detected: DetectedBackend | None = None
        self._maintenance: RuleMaintenance | None = None
        self._change_notifier = RuleChangeNotifier()
        self._localnet: str | None = None
        self._guard: FlushGuard | None = None

    @property
    def repairs(self) -> int:
        """How often a rule was restored."""
        return self._maintenance.repairs if self._maintenance else 0

    @property
    def failures(self) -> int:
        """How many verifications failed."""
        return self._maintenance.failures if self._maintenance else 0

    @property
    def forgotten(self) -> int:
        """How many connections that bypassed NMI were ended."""
        return self._maintenance.forgotten if self._maintenance else 0

    @property
    def closed(self) -> bool:
        """Whether no pod could reach the real IMDS if NMI stopped now."""
        return (
            self._settings.fail_closed and self._maintenance is not None and self._maintenance.in_force(self._to.reject)
        )

    async def prepare(self) -> None:
        """Check that this node meets the requirements of the settings. Only --fail-closed already changes it.

        Raises StartError, or RedirectError if nat cannot be read.
        """
        settings = self._settings
        await asyncio.to_thread(kubenet.check, settings.kubelet_config, allowed=settings.allow_kubenet)
        if settings.redirect is RedirectMode.NONE:
            return
        if settings.delete_conntrack:
            await conntrack.find_conntrack()
        self._detected = await detect()
        log.info("found the node's iptables", extra={"reason": str(self._detected.backend)})
        if self._detected.left_elsewhere:
            log.warning(
                "the other backend of iptables holds a redirect, too; stop NMI and run `nmi --cleanup` here once"
            )
        maintenance = RuleMaintenance(
            await driver_for(self._detected), forget=self._forget_bypassing if settings.delete_conntrack else None
        )
        await maintenance.find(self._to.redirect)
        if settings.fail_closed:
            await maintenance.install(self._to.reject)
            await self._guard_from_flushes()
        self._maintenance = maintenance

    async def install(self) -> None:
        """Redirect pods to NMI. Call it when NMI listens. Raises StartError."""
        if self._maintenance is None:
            return
        await self._ensure_localnet()
        await self._maintenance.install(self._to.redirect)
        self._change_notifier.notify()  # other failures than the rule's own need not wait for the interval
        if not self._settings.fail_closed:
            await self._lift_reject(self._maintenance)

    async def maintain(self) -> None:
        """Keep the rules in place until cancelled. Failures are logged, reported by problem(), and retried."""
        if self._maintenance is None or self._detected is None:
            return
        seconds = float(self._settings.redirect_interval_seconds)
        async with self._change_notifier.listening_to(self._changes), asyncio.TaskGroup() as tasks:
            tasks.create_task(
                self._maintenance.maintain(seconds, self._change_notifier.pause), name="maintain the rules"
            )
            tasks.create_task(self._watch_localnet(seconds), name="watch route_localnet")

    def problem(self) -> str | None:
        """Return why pods may not be redirected, for the readiness probe; None if they are, or without a redirect."""
        if self._maintenance is None:
            return None if self._settings.redirect is RedirectMode.NONE else "the node is not prepared yet"
        if problem := self._maintenance.problem():
            return problem
        if not self._maintenance.in_force(self._to.redirect):
            return f"{self._to.redirect.name}: it has not been installed yet"
        return self._localnet

    def state(self) -> dict[str, object]:
        """Return the state for the debug page."""
        maintenance = self._maintenance
        return {
            "redirect": str(self._settings.redirect),
            "backend": str(self._detected.backend) if self._detected else "",
            "in_force": maintenance is not None and maintenance.in_force(self._to.redirect),
            "fail_closed": self._settings.fail_closed,
            "closed": self.closed,
            "flush_guard": self._guard.table if self._guard else "",
            "problem": self.problem(),
            "told_of_changes": self._change_notifier.listening,
            "repairs": self.repairs,
            "failed_verifications": self.failures,
            "forgotten_connections": self.forgotten,
        }

    async def withdraw(self) -> None:
        """Redirect no new connections, unless the rules must stay. Open connections continue until remove().

        Waits for a held lock: set a deadline. Raises StartError or RedirectError.
        """
        if self._maintenance is not None and not (self._settings.fail_closed or self._settings.keep_redirect):
            await self._maintenance.withdraw(self._to.redirect)

    async def remove(self) -> None:
        """Restore the node's former state, unless the rules must stay. Waits for a held lock: set a deadline.

        Raises StartError or RedirectError.
        """
        if self._maintenance is None:
            return
        if self._settings.fail_closed:
            log.info("the rules stay in place, so that no pod reaches the real IMDS; `nmi --cleanup` removes them")
        elif self._settings.keep_redirect:
            log.info("the redirect stays in place, as configured; `nmi --cleanup` removes it")
        else:
            await self._maintenance.remove(self._to.redirect)
            await self._lift_reject(self._maintenance)

    async def _guard_from_flushes(self) -> None:
        """Create the flush guard. It exists until this process ends, as the reject exists longer."""
        if self._detected is None or self._detected.backend is not Backend.NFT:
            return  # `nft flush ruleset` does not affect the legacy tables
        try:
            self._guard = await asyncio.to_thread(FlushGuard, self._to)
        except OSError as error:
            log.warning(
                "no flush guard; requests may reach the real IMDS for a moment after `nft flush ruleset` (a kernel "
                "before 5.12 has no owned tables)",
                extra={"error": str(error)},
            )

    def close(self) -> None:
        """Remove the flush guard. The rules of iptables do not change."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    async def _lift_reject(self, maintenance: RuleMaintenance) -> None:
        """Remove the reject rule of an earlier NMI with --fail-closed."""
        if not self._may_have_filter():
            return
        try:
            if await maintenance.find(self._to.reject):
                await maintenance.remove(self._to.reject)
                log.warning(
                    "pods reach the real IMDS again while NMI is not running, because --fail-closed is no longer set"
                )
        except RedirectError as error:
            log.error(  # noqa: TRY400  the sentence says it all
                "the reject rule of an earlier NMI may still exist; run `nmi --cleanup` after NMI has stopped",
                extra={"error": str(error)},
            )

    def _may_have_filter(self) -> bool:
        """Return whether reading filter creates nothing."""
        found = self._detected
        return found is not None and (found.backend is Backend.NFT or "filter" in found.legacy_tables)

    def _changes(self) -> ChangeSource:
        if self._detected is not None and self._detected.backend is Backend.NFT:
            rules = (self._to.redirect, self._to.reject) if self._settings.fail_closed else (self._to.redirect,)
            return NftChanges(chain for rule in rules for chain in (rule.hook, rule.chain) if chain)
        return LockReleases(LOCK)

    async def _forget_bypassing(self) -> int:
        return await conntrack.forget_bypassing(self._to, await conntrack.find_conntrack())

    async def _ensure_localnet(self) -> None:
        if not route_localnet.needed(self._settings.redirect_destination[0]):
            return
        setting = self._settings.route_localnet is RouteLocalnetMode.SET
        problem = await asyncio.to_thread(route_localnet.fault)
        if setting:
            if self._detected is None or self._detected.iptables is None:
                raise StartError(
                    "--route-localnet=set needs the iptables program of this node's backend in NMI's image"
                )
            # The guard first, so that route_localnet is never on without it.
            iptables = self._detected.iptables
            if await retry_while_locked(lambda: route_localnet.ensure_guard(iptables)):
                log.info("guard of this node's 127.0.0.1 added to filter/INPUT; it stays there when NMI stops")
            if problem:
                await asyncio.to_thread(route_localnet.switch_on)
                problem = await asyncio.to_thread(route_localnet.fault)
                log.info("route_localnet switched on; it stays on when NMI stops")
        if problem and problem != self._localnet:
            log.error(
                "pods are not redirected to NMI until route_localnet is on; run the command in the reason",
                extra={"reason": problem},
            )
        self._localnet = problem

    async def _watch_localnet(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await self._ensure_localnet()
            except (StartError, OSError) as error:
                self._localnet = str(error)
                log.error(  # noqa: TRY400  the sentence says it all
                    "route_localnet could not be verified; see the error, NMI retries at the next interval",
                    extra={"error": self._localnet},
                )


def redirect_spec(settings: Settings) -> RedirectSpec:
    """Return the redirect that *settings* require."""
    return RedirectSpec(settings.metadata_ip, settings.metadata_port, *settings.redirect_destination)


async def driver_for(detected: DetectedBackend) -> IptablesDriver:
    """Return the driver of the node's own backend. Raises StartError if its programs are not installed."""
    if detected.backend is Backend.NFT and detected.programs.nft is not None:
        return NftDriver(detected.programs.nft)
    return await asyncio.to_thread(LegacyDriver)
