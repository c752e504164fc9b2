"""All of this room for `nmi.app`: what the settings ask of the node, done in order and undone at the end."""

import asyncio
import logging

from nmi.flag_table import RedirectMode, RouteLocalnetMode
from nmi.node import conntrack, kubenet, sysctl
from nmi.node.backend import Backend, Detected, detect
from nmi.node.legacy import LegacyDriver
from nmi.node.nft import NftDriver
from nmi.node.redirect import Driver, Redirect, RedirectError, RedirectRule
from nmi.settings import Settings
from podidentity.exits import StartError

log = logging.getLogger(__name__)


class Plumbing:
    """The node's side of one NMI: prepare(), install(), maintain() as a task of the owner's, and after it remove()."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._detected: Detected | None = None
        self._redirect: Redirect | None = None
        self._localnet: str | None = None

    @property
    def repairs(self) -> int:
        """How often the rule had to be put back, for the metric."""
        return self._redirect.repairs if self._redirect else 0

    async def prepare(self) -> None:
        """Look whether this node allows what the settings ask for, changing nothing.

        Raises StartError, or RedirectError when the nat table cannot be read.
        """
        settings = self._settings
        await asyncio.to_thread(kubenet.check, settings.kubelet_config, allowed=settings.allow_kubenet)
        if settings.redirect is RedirectMode.NONE:
            return
        if settings.delete_conntrack:
            await conntrack.find_conntrack()
        self._detected = await detect()
        driver = await driver_for(self._detected)
        await driver.find()
        self._redirect = Redirect(rule_of(settings), driver)
        log.info("found the node's iptables", extra={"reason": str(self._detected.backend)})

    async def install(self) -> None:
        """Lead pods to NMI; to be called when it listens. Raises StartError or RedirectError."""
        if self._redirect is None:
            return
        await self._ensure_localnet()
        await self._redirect.install()
        if self._settings.delete_conntrack:
            found = await conntrack.find_conntrack()
            count = await conntrack.forget_bypassing(rule_of(self._settings), found)
            log.info("forgot connections that bypassed NMI", extra={"count": count})

    async def maintain(self) -> None:
        """Keep it so until cancelled. Failures are logged, shown by problem(), and tried again."""
        if self._redirect is None:
            return
        seconds = float(self._settings.redirect_interval_seconds)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._redirect.maintain(seconds), name="maintain the redirect")
            tasks.create_task(self._watch_localnet(seconds), name="watch route_localnet")

    def problem(self) -> str | None:
        """Why pods may not be led here, for the readiness probe; None when they are, or when nobody asked for it."""
        if self._redirect is None:
            return None if self._settings.redirect is RedirectMode.NONE else "the node is not prepared yet"
        return self._redirect.problem() or self._localnet

    async def remove(self) -> None:
        """Leave nat as it was found, unless told to keep the rule. Waits for a held lock: bound it by a deadline."""
        if self._redirect is not None and not self._settings.keep_redirect:
            await self._redirect.remove()

    async def _ensure_localnet(self) -> None:
        if not sysctl.needed(self._settings.redirect_target[0]):
            return
        setting = self._settings.route_localnet is RouteLocalnetMode.SET
        problem = await asyncio.to_thread(sysctl.fault)
        if setting:
            if self._detected is None or self._detected.iptables is None:
                raise StartError(
                    "--route-localnet=set needs the iptables program of this node's backend in NMI's image"
                )
            # The guard first, whoever set it: there is to be no moment with the one and without the other.
            if await sysctl.ensure_guard(self._detected.iptables):
                log.info("guarded this node's 127.0.0.1 in filter/INPUT; it stays there when NMI ends")
            if problem:
                await asyncio.to_thread(sysctl.switch_on)
                problem = await asyncio.to_thread(sysctl.fault)
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
                log.exception("route_localnet could not be looked after; see the error", extra={"error": str(error)})


def rule_of(settings: Settings) -> RedirectRule:
    """The rule that *settings* describe."""
    return RedirectRule(settings.metadata_ip, settings.metadata_port, *settings.redirect_target)


async def driver_for(detected: Detected) -> Driver:
    """The driver of the node's own backend. Raises StartError when what it needs is not installed."""
    if detected.backend is Backend.NFT and detected.programs.nft is not None:
        return NftDriver(detected.programs.nft)
    return await asyncio.to_thread(LegacyDriver)


async def cleanup(settings: Settings) -> None:
    """Remove the redirect from this node, whichever backend holds one (`nmi --cleanup`). Raises StartError."""
    detected = await detect()
    drivers: list[Driver] = []
    if detected.programs.nft is not None:
        drivers.append(NftDriver(detected.programs.nft))
    if "nat" in detected.legacy_tables:
        drivers.append(await asyncio.to_thread(LegacyDriver))
    rule = rule_of(settings)
    for driver in drivers:
        try:
            await Redirect(rule, driver).remove()
        except RedirectError as error:
            raise StartError(f"the redirect was not removed: {error}") from error
