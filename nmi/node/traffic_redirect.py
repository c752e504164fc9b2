"""The redirect of pods' requests to NMI, for `nmi.app`: prepared, installed, maintained and removed."""

import asyncio
import errno
import logging
from collections.abc import Mapping
from typing import Never

from nmi.choices import RedirectTarget, RouteLocalnetMode
from nmi.node import conntrack, kubenet, leftovers
from nmi.node.cilium_redirect import CiliumRedirect
from nmi.node.connect_redirect import ConnectRedirect
from nmi.node.effect import RedirectEffect
from nmi.node.flush_guard import FlushGuard
from nmi.node.host_routing import HostRouting, RulePermission, RulesForbiddenError, by_kubelet
from nmi.node.legacy_driver import LOCK
from nmi.node.localnet_maintenance import LocalnetMaintenance
from nmi.node.node_facts import NodeReading, driver_for, read_facts
from nmi.node.redirect_choice import Backend, NodeFacts, RedirectChoice, choose
from nmi.node.refused_rules import REFUSED
from nmi.node.rule_changes import ChangeSource, LockReleases, NftChanges, RuleChangeNotifier
from nmi.node.rule_maintenance import RuleMaintenance
from nmi.node.rule_removal import RuleRemoval
from nmi.node.rules import TABLE, RedirectError, RedirectSpec
from nmi.settings import NmiSettings
from podidentity.azure.errors import AzureError
from podidentity.exits import StartError

log = logging.getLogger(__name__)


class TrafficRedirect:
    """The node's side of one NMI: prepare(), note_labels(), then maintain() as a task of the owner, install(), and
    finally remove().

    The owner ends maintain() before remove(): maintain() would restore the rules. note_labels() may be called at any
    time, also while maintain() and install() run. Nothing is written on the node, neither a rule nor route_localnet,
    before note_labels() has permitted it by the labels of the node, or by those of the kubelet's flags.
    """

    def __init__(self, settings: NmiSettings, node_address: str | None = None) -> None:
        """Store the settings. *node_address* is the node's own IPv4 address, for the target `node`."""
        self._settings = settings
        self._node_address = node_address
        self._to = redirect_spec(settings)
        self._node: NodeReading | None = None
        self._permission = RulePermission()
        self._removal: RuleRemoval | None = None
        self._maintenance: RuleMaintenance | None = None
        self._change_notifier = RuleChangeNotifier()
        self._localnet: LocalnetMaintenance | None = None
        self._guard: FlushGuard | None = None
        self._effect: RedirectEffect | None = None
        self._leftover: str | None = None
        self._cilium: CiliumRedirect | None = None
        self._listens = asyncio.Event()
        self.choice: RedirectChoice | None = None
        """The backend and the target, after prepare()."""

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
        """Choose backend and target, and check that this node meets the requirements of the settings.

        It writes no rule, and removes NMI's if the kubelet's flags show eBPF host routing. Raises StartError, or
        RedirectError if nat cannot be read.
        """
        settings = self._settings
        await asyncio.to_thread(kubenet.check, settings.kubelet_config, allowed=settings.allow_kubenet)
        if settings.redirect.changes_rules:
            if settings.delete_conntrack:
                await conntrack.find_conntrack()
            self._node = await read_facts(node_address=self._node_address)
        self.choice = choose(
            self._node.facts if self._node is not None else NodeFacts(node_address=self._node_address),
            settings.redirect,
            settings.redirect_target,
            listen_address=settings.redirect_destination[0],
            sets_localnet=settings.route_localnet is RouteLocalnetMode.SET,
        )
        log.info("redirect chosen", extra={"reason": self.note()})
        if self.choice.target is RedirectTarget.NODE:
            self._to = redirect_spec(settings, self._node_address)
        if self.choice.backend is Backend.CILIUM:
            self._cilium = CiliumRedirect((settings.metadata_ip, settings.listen_port))
        # Without rules of netfilter the labels of the node do not matter.
        if self._node is None:
            return
        # The kubelet's flags come first, because reading them needs no API server.
        self._permission.by_kubelet = await asyncio.to_thread(by_kubelet, settings.kubelet_config)
        if self._permission.by_kubelet is HostRouting.EBPF:
            await self._forbid_rules(self._node)
            return
        driver = await driver_for(self.choice.backend, self._node.programs)
        maintenance = RuleMaintenance(driver, forget=self._forget_bypassing if settings.delete_conntrack else None)
        # A table that cannot be read ends the start; later failures are retried.
        await maintenance.find(self._to.redirect)
        self._effect = RedirectEffect(
            self._node.facts,
            self.choice.backend,
            lambda: driver.packets(self._to.redirect),
            self._bypassing,
            lambda: maintenance.repairs,
            connect=ConnectRedirect((settings.metadata_ip, settings.metadata_port)),
        )
        self._localnet = LocalnetMaintenance(
            self._to.target_ip,
            sets=settings.route_localnet is RouteLocalnetMode.SET,
            iptables=self._node.programs.iptables(self.choice.backend),
        )
        self._maintenance = maintenance

    @property
    def needs_labels(self) -> bool:
        """Whether note_labels() decides about rules. Call it after prepare()."""
        return self._maintenance is not None

    async def decided(self) -> None:
        """Return when note_labels() has permitted rules or forbidden them, or if it does not decide about any."""
        if self.needs_labels:
            await self._permission.decided()

    async def note_labels(self, labels: Mapping[str, str] | None) -> None:
        """Note the labels of the node object, or None while the API server does not respond. One call at a time.

        The first labels without eBPF host routing permit rules, and the first rule of --fail-closed is written. Labels
        with it forbid them for ever, and NMI's rules are removed. Without any labels neither. Raises StartError.
        """
        if self._node is None or self._maintenance is None:
            return
        routing = self._permission.host_routing(labels)
        if routing is HostRouting.EBPF:
            await self._forbid_rules(self._node)
        elif routing is HostRouting.NETFILTER and not self._permission.granted:
            if self._settings.fail_closed:
                # The reject comes first, so that pods do not reach the real IMDS before the redirect is in force.
                await self._maintenance.install(self._to.reject)
                await self._guard_from_flushes()
            self._permission.grant()
        elif not self._permission.granted:
            log.warning(
                "no rule is written until the API server responds, because the labels of this node are not known; "
                "rules of an earlier NMI remain",
                extra={"path": str(self._settings.kubelet_config)},
            )

    def note_imds(self, error: AzureError | None) -> None:
        """Note the end of a request of NMI to IMDS, which shows whether Cilium redirects it to NMI."""
        if self._cilium is not None:
            self._cilium.note_imds(error)

    async def install(self) -> None:
        """Redirect pods to NMI, and then remove NMI's rules from other backends. Call it when NMI listens.

        Raises StartError.
        """
        self._listens.set()
        maintenance, localnet = self._maintenance, self._localnet
        if maintenance is not None and localnet is not None and self._permission.granted:
            await localnet.ensure()
            await maintenance.install(self._to.redirect)
            self._change_notifier.notify()  # other failures than the rule's own need not wait for the interval
            if not self._settings.fail_closed:
                await self._lift_reject(maintenance)
            await self._remove_leftovers()
        if self._removal is not None:
            await self._removal.run()  # for labels that came in this time, and rules that a former NMI has restored

    async def maintain(self) -> None:
        """Keep the redirect in place until cancelled. Failures are logged, reported by problem(), and retried."""
        if self._cilium is not None:
            await self._listens.wait()
            await self._cilium.run()
        if self._node is None:
            return
        seconds = float(self._settings.redirect_interval_seconds)
        await self._permission.decided()
        if self._maintenance is not None and self._localnet is not None and self._effect is not None:
            try:
                async with self._change_notifier.listening_to(self._changes), asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._permission.until_forbidden(), name="wait for labels that forbid rules")
                    tasks.create_task(
                        self._maintenance.maintain(seconds, self._change_notifier.pause), name="maintain the rules"
                    )
                    tasks.create_task(self._localnet.maintain(seconds), name="watch route_localnet")
                    tasks.create_task(self._retry_leftovers(seconds), name="remove rules of other backends")
                    tasks.create_task(self._effect.maintain(seconds), name="watch the redirect's effect")
            except* RulesForbiddenError:
                pass  # a write that was in progress has ended; what it wrote is removed now
        if self._removal is not None:
            await self._removal.maintain(seconds)

    def problem(self) -> str | None:
        """Return why pods may not be redirected, for the readiness probe; None if they are, or without a redirect."""
        if self._cilium is not None:
            return self._cilium.problem()
        if self._removal is not None:
            return self._removal.problem()
        return self._rules_problem()

    def _rules_problem(self) -> str | None:
        if self._maintenance is None:
            return None if not self._settings.redirect.changes_rules else "the node is not prepared yet"
        if not self._permission.granted:
            return "the labels of this node are not known yet, so NMI writes no rule; see the reason in NMI's log"
        if problem := self._maintenance.problem():
            return problem
        if not self._maintenance.in_force(self._to.redirect):
            return f"{self._to.redirect.name}: it has not been installed yet"
        localnet = self._localnet.problem if self._localnet is not None else None
        return localnet or self._leftover or (self._effect.problem() if self._effect is not None else None)

    def note(self) -> str:
        """Return backend, target and the reason of the choice in one line; "" before prepare().

        With Cilium it also states that no check of the redirect has succeeded yet.
        """
        chosen = f"{self.choice.backend} to {self.choice.target}: {self.choice.reason}" if self.choice else ""
        unseen = self._cilium.note_text() if self._cilium is not None else ""
        return f"{chosen}; {unseen}" if unseen else chosen

    def state(self) -> dict[str, object]:
        """Return the state for the debug page."""
        return {
            "redirect": str(self._settings.redirect),
            "backend": str(self.choice.backend) if self.choice else "",
            "target": str(self.choice.target) if self.choice else "",
            "reason": self.choice.reason if self.choice else "",
            "packets": self._effect.packets if self._effect else 0,
            "in_force": self._in_force,
            "fail_closed": self._settings.fail_closed,
            "closed": self.closed,
            "flush_guard": self._guard.table if self._guard else "",
            "problem": self.problem(),
            "told_of_changes": self._change_notifier.listening,
            "repairs": self.repairs,
            "cilium_repairs": self._cilium.repairs if self._cilium is not None else 0,
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

    async def _forbid_rules(self, node: NodeReading) -> None:
        """Remove every rule of NMI, and write none from now on."""
        self._maintenance = self._effect = None
        # This also ends the tasks of maintain(), which would restore the rules.
        self._permission.forbid()
        self.close()
        self._removal = RuleRemoval(node, self._to)
        log.error(
            "this node has eBPF host routing, so NMI writes no rule and redirects no pod; see the reason",
            extra={"reason": self._removal.problem()},
        )
        await self._removal.run()

    async def _guard_from_flushes(self) -> None:
        """Create the flush guard. It exists until this process ends, as the reject exists longer."""
        if self._backend is Backend.IPTABLES_LEGACY:
            return  # `nft flush ruleset` does not affect the legacy tables
        try:
            self._guard = await asyncio.to_thread(FlushGuard, self._to)
        except OSError as error:
            log.warning(
                "no flush guard; requests may reach the real IMDS for a moment after `nft flush ruleset` (a kernel "
                "before 5.12 has no owned tables)",
                extra={"error": REFUSED if error.errno == errno.EPERM else str(error)},
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
            log.error(  # noqa: TRY400  the message is complete
                "the reject rule of an earlier NMI may still exist; run `nmi --cleanup` after NMI has stopped",
                extra={"error": str(error)},
            )

    def _may_have_filter(self) -> bool:
        """Return whether reading filter creates nothing."""
        tables = self._node.legacy_tables if self._node is not None else ()
        return self._backend is not Backend.IPTABLES_LEGACY or "filter" in tables

    def _changes(self) -> ChangeSource:
        if self._backend is Backend.NFTABLES:
            return NftChanges(tables=(TABLE,))
        if self._backend is Backend.IPTABLES_NFT:
            rules = (self._to.redirect, self._to.reject) if self._settings.fail_closed else (self._to.redirect,)
            return NftChanges(chain for rule in rules for chain in (rule.hook, rule.chain) if chain)
        return LockReleases(LOCK)

    async def _forget_bypassing(self) -> int:
        return await conntrack.forget_bypassing(self._to, await conntrack.find_conntrack())

    @property
    def _in_force(self) -> bool:
        if self._cilium is not None:
            return self._cilium.in_force
        return self._maintenance is not None and self._maintenance.in_force(self._to.redirect)

    @property
    def redirects(self) -> bool:
        """Whether pods are redirected to NMI as far as it knows; True without a redirect."""
        return self._cilium.in_force if self._cilium is not None else self.problem() is None

    @property
    def _backend(self) -> Backend:
        return self.choice.backend if self.choice is not None else Backend.NONE

    async def _bypassing(self) -> frozenset[tuple[str, int]] | None:
        try:
            program = await conntrack.find_conntrack()
        except StartError:
            return None  # only --enable-conntrack-deletion requires the program
        return await conntrack.bypassing(self._to, program)

    async def _retry_leftovers(self, seconds: float) -> Never:
        while True:
            await asyncio.sleep(seconds)
            if self._leftover is not None:
                await self._remove_leftovers()

    async def _remove_leftovers(self) -> None:
        """Remove NMI's rules from other backends, once the redirect is in force in this one."""
        if self._node is None or self._maintenance is None or not self._maintenance.in_force(self._to.redirect):
            self._leftover = "rules of another backend were not looked for, because the redirect is not in force yet"
            return
        try:
            removed = await leftovers.remove(self._node.programs, self._to, keep=self._backend)
        except (StartError, RedirectError) as error:
            self._leftover = f"a rule of another backend could not be removed: {error}"
            log.error(  # noqa: TRY400  the message is complete
                "a redirect of another backend may lead pods elsewhere; see the error, NMI retries at the interval",
                extra={"error": str(error)},
            )
            return
        self._leftover = None
        for line in removed:
            log.info("rule of another backend removed", extra={"reason": line})


def redirect_spec(settings: NmiSettings, node_address: str | None = None) -> RedirectSpec:
    """Return the redirect that *settings* require: to *node_address* if given, else to the listener's address."""
    ip, port = settings.redirect_destination
    return RedirectSpec(settings.metadata_ip, settings.metadata_port, node_address or ip, port)
