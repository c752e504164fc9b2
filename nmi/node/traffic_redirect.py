"""All of this room for `nmi.app`: what the settings ask of the node, done in order and undone at the end."""

import asyncio
import logging

from nmi.flag_table import RedirectMode, RouteLocalnetMode
from nmi.node import conntrack, kubenet, route_localnet
from nmi.node.backend import Backend, DetectedBackend, detect
from nmi.node.legacy_driver import LOCK, LegacyDriver
from nmi.node.nft_driver import NftDriver
from nmi.node.rule_changes import ChangeSource, LockReleases, NftChanges, RuleChangeNotifier
from nmi.node.rule_maintenance import RuleMaintenance, retry_while_locked
from nmi.node.rules import IptablesDriver, RedirectError, RedirectSpec
from nmi.settings import Settings
from podidentity.exits import StartError

log = logging.getLogger(__name__)


class TrafficRedirect:
    """The node's side of one NMI: prepare(), then maintain() as a task of the owner's, install(), and at last remove().

    remove() comes after the end of maintain(), which would put the rules back.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._to = redirect_spec(settings)
        self._detected: DetectedBackend | None = None
        self._maintenance: RuleMaintenance | None = None
        self._change_notifier = RuleChangeNotifier()
        self._localnet: str | None = None

    @property
    def repairs(self) -> int:
        """How often a rule had to be put back."""
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
        """Whether no pod would reach the real IMDS if NMI went away now."""
        return (
            self._settings.fail_closed and self._maintenance is not None and self._maintenance.in_force(self._to.reject)
        )

    async def prepare(self) -> None:
        """Look whether this node allows what the settings ask for; only --fail-closed changes it already now.

        Raises StartError, or RedirectError when nat cannot be read.
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
                "the other backend of iptables holds a redirect, too: end NMI and run `nmi --cleanup` here once"
            )
        maintenance = RuleMaintenance(
            await driver_for(self._detected), forget=self._forget_bypassing if settings.delete_conntrack else None
        )
        await maintenance.find(self._to.redirect)
        if settings.fail_closed:
            await maintenance.install(self._to.reject)
        self._maintenance = maintenance

    async def install(self) -> None:
        """Lead pods to NMI; to be called when it listens. Raises StartError."""
        if self._maintenance is None:
            return
        await self._ensure_localnet()
        await self._maintenance.install(self._to.redirect)
        self._change_notifier.notify()  # what went wrong beside the rule itself need not wait for the interval
        if not self._settings.fail_closed:
            await self._lift_reject(self._maintenance)

    async def maintain(self) -> None:
        """Keep what is installed, until cancelled. Failures are logged, shown by problem(), and tried again."""
        if self._maintenance is None or self._detected is None:
            return
        seconds = float(self._settings.redirect_interval_seconds)
        async with self._change_notifier.listening_to(self._changes), asyncio.TaskGroup() as tasks:
            tasks.create_task(
                self._maintenance.maintain(seconds, self._change_notifier.pause), name="maintain the rules"
            )
            tasks.create_task(self._watch_localnet(seconds), name="watch route_localnet")

    def problem(self) -> str | None:
        """Why pods may not be led here, for the readiness probe; None when they are, or when nobody asked for it."""
        if self._maintenance is None:
            return None if self._settings.redirect is RedirectMode.NONE else "the node is not prepared yet"
        if problem := self._maintenance.problem():
            return problem
        if not self._maintenance.in_force(self._to.redirect):
            return f"{self._to.redirect.name}: it has not been installed yet"
        return self._localnet

    def state(self) -> dict[str, object]:
        """What an operator who looks into a running NMI wants to know of this room."""
        maintenance = self._maintenance
        return {
            "redirect": str(self._settings.redirect),
            "backend": str(self._detected.backend) if self._detected else "",
            "in_force": maintenance is not None and maintenance.in_force(self._to.redirect),
            "fail_closed": self._settings.fail_closed,
            "closed": self.closed,
            "problem": self.problem(),
            "told_of_changes": self._change_notifier.listening,
            "repairs": self.repairs,
            "failed_verifications": self.failures,
            "forgotten_connections": self.forgotten,
        }

    async def withdraw(self) -> None:
        """Lead no new connection here, unless told to keep the rules; those that are open go on until remove().

        Waits for a held lock: bound it by a deadline. Raises StartError or RedirectError.
        """
        if self._maintenance is not None and not (self._settings.fail_closed or self._settings.keep_redirect):
            await self._maintenance.withdraw(self._to.redirect)

    async def remove(self) -> None:
        """Leave the node as it was found, unless told to keep the rules. Waits for a held lock: bound it by a deadline.

        Raises StartError or RedirectError.
        """
        if self._maintenance is None:
            return
        if self._settings.fail_closed:
            log.info("the rules stay, so that no pod reaches the real IMDS; `nmi --cleanup` removes them")
        elif self._settings.keep_redirect:
            log.info("the redirect stays, as asked; `nmi --cleanup` removes it")
        else:
            await self._maintenance.remove(self._to.redirect)
            await self._lift_reject(self._maintenance)

    async def _lift_reject(self, maintenance: RuleMaintenance) -> None:
        """Remove the reject that an NMI with --fail-closed left: without that flag it is not wanted any more."""
        if not self._may_have_filter():
            return
        try:
            if await maintenance.find(self._to.reject):
                await maintenance.remove(self._to.reject)
                log.warning("pods reach the real IMDS again while NMI is away, since --fail-closed is not set any more")
        except RedirectError as error:
            log.error(  # noqa: TRY400  the sentence says it all
                "the reject of an NMI with --fail-closed may still be there; run `nmi --cleanup` when NMI has gone",
                extra={"error": str(error)},
            )

    def _may_have_filter(self) -> bool:
        """Whether looking into filter creates nothing."""
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
        if not route_localnet.needed(self._settings.redirect_target[0]):
            return
        setting = self._settings.route_localnet is RouteLocalnetMode.SET
        problem = await asyncio.to_thread(route_localnet.fault)
        if setting:
            if self._detected is None or self._detected.iptables is None:
                raise StartError(
                    "--route-localnet=set needs the iptables program of this node's backend in NMI's image"
                )
            # The guard first, whoever set it: there is to be no moment with the one and without the other.
            iptables = self._detected.iptables
            if await retry_while_locked(lambda: route_localnet.ensure_guard(iptables)):
                log.info("guarded this node's 127.0.0.1 in filter/INPUT; it stays there when NMI ends")
            if problem:
                await asyncio.to_thread(route_localnet.switch_on)
                problem = await asyncio.to_thread(route_localnet.fault)
                log.info("switched route_localnet on; it stays on when NMI ends")
        if problem and problem != self._localnet:
            log.error(
                "pods are not led to NMI until route_localnet is on; run the command in the reason",
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
                    "route_localnet could not be looked after; see the error, it is tried again at the next interval",
                    extra={"error": self._localnet},
                )


def redirect_spec(settings: Settings) -> RedirectSpec:
    """From where to where *settings* lead pods."""
    return RedirectSpec(settings.metadata_ip, settings.metadata_port, *settings.redirect_target)


async def driver_for(detected: DetectedBackend) -> IptablesDriver:
    """The driver of the node's own backend. Raises StartError when what it needs is not installed."""
    if detected.backend is Backend.NFT and detected.programs.nft is not None:
        return NftDriver(detected.programs.nft)
    return await asyncio.to_thread(LegacyDriver)
