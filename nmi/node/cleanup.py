"""`nmi --cleanup`: removal of NMI's rules and files from a node, for the hook of an uninstallation. Needs no cluster.

It also removes the Go implementation's rule, since its chain has the same name. It keeps route_localnet, which other
programs may need by now, and the guard of 127.0.0.1 in filter/INPUT, without which a node with route_localnet exposes
its loopback services to its neighbours (CVE-2020-8558). To remove both, set route_localnet to 0 first.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from nmi.node import boot_guard, leftovers
from nmi.node.node_facts import find_programs
from nmi.node.redirect_choice import Backend
from nmi.node.rule_maintenance import RuleMaintenance
from nmi.node.rules import RedirectError, RedirectSpec, RuleDriver, TopRule
from nmi.node.traffic_redirect import redirect_spec
from nmi.settings import NmiSettings
from podidentity.exits import StartError

PATIENCE_SECONDS = 60.0
"""How long a hook waits for the xtables lock in total; iptables programs hold it for seconds at most."""


async def cleanup(settings: NmiSettings) -> list[str]:
    """Remove the boot guard, and NMI's rules from every backend. Return a line for each. Raises StartError."""
    to = redirect_spec(settings)
    removed: list[str] = []
    directory = Path(settings.systemd_directory)
    # The guard first: if the node reboots now, the guard must not insert a reject rule that stays.
    if await asyncio.to_thread(boot_guard.remove, directory):
        removed.append(f"removed the boot guard ({directory / boot_guard.NAME})")
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for backend, driver, rules in _drivers(to):
                maintenance = RuleMaintenance(driver)
                for rule in rules:
                    if await maintenance.find(rule):
                        await maintenance.remove(rule)
                        location = "nftables" if backend is Backend.NFTABLES else f"{rule.table} of {backend}"
                        removed.append(f"removed {rule.name} ({location})")
    except RedirectError as error:
        raise StartError(f"not everything was removed: {error}; then run this again") from error
    except TimeoutError as error:
        raise StartError(
            f"the xtables lock was held for {PATIENCE_SECONDS:g} s: find the iptables process that holds it (fuser "
            f"/run/xtables.lock), then run this again"
        ) from error
    return removed


async def _drivers(to: RedirectSpec) -> AsyncIterator[tuple[Backend, RuleDriver, tuple[TopRule, ...]]]:
    """Yield each backend that may hold a rule, with the rules to look for. Raises StartError without any program."""
    programs = await find_programs()
    if not programs.backends:
        raise StartError(
            "no program of netfilter was found: install the packages iptables (1.8 or newer) and nftables in NMI's "
            "image"
        )
    async for backend_rules in leftovers.drivers(programs, to):
        yield backend_rules
