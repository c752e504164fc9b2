"""`nmi --cleanup`: removal of NMI's rules and files from a node, for the hook of an uninstallation. Needs no cluster.

It also removes the Go implementation's rule, since its chain has the same name. It keeps route_localnet, which other
programs may need by now, and the guard of 127.0.0.1 in filter/INPUT, without which a node with route_localnet exposes
its loopback services to its neighbours (CVE-2020-8558). To remove both, set route_localnet to 0 first.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from nmi.node import boot_guard
from nmi.node.backend import Backend, detect
from nmi.node.legacy_driver import LegacyDriver
from nmi.node.nft_driver import NftDriver
from nmi.node.rule_maintenance import RuleMaintenance
from nmi.node.rules import IptablesDriver, RedirectError
from nmi.node.traffic_redirect import redirect_spec
from nmi.settings import Settings
from podidentity.exits import StartError

PATIENCE_SECONDS = 60.0
"""How long a hook waits for the xtables lock in total; iptables programs hold it for seconds at most."""


async def cleanup(settings: Settings) -> list[str]:
    """Remove the boot guard, and NMI's rules from every backend. Return a line for each. Raises StartError."""
    to = redirect_spec(settings)
    removed: list[str] = []
    directory = Path(settings.systemd_directory)
    # The guard first: if the node reboots now, the guard must not insert a reject rule that stays.
    if await asyncio.to_thread(boot_guard.remove, directory):
        removed.append(f"removed the boot guard ({directory / boot_guard.NAME})")
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for backend, driver, tables in _drivers():
                maintenance = RuleMaintenance(driver)
                # The redirect last: while it exists, pods do not reach the real IMDS.
                for rule in (to.reject, to.redirect):
                    if rule.table in tables and await maintenance.find(rule):
                        await maintenance.remove(rule)
                        removed.append(f"removed {rule.name} ({rule.table} of iptables-{backend})")
    except RedirectError as error:
        raise StartError(f"not everything was removed: {error}; then run this again") from error
    except TimeoutError as error:
        raise StartError(
            f"the xtables lock was held for {PATIENCE_SECONDS:g} s: find the iptables process that holds it (fuser "
            f"/run/xtables.lock), then run this again"
        ) from error
    return removed


async def _drivers() -> AsyncIterator[tuple[Backend, IptablesDriver, frozenset[str]]]:
    """Return each backend that may hold a rule, with those of its tables that exist."""
    detected = await detect()
    if detected.programs.nft is not None:
        yield Backend.NFT, NftDriver(detected.programs.nft), frozenset(("nat", "filter"))
    if detected.legacy_tables & {"nat", "filter"}:
        yield Backend.LEGACY, await asyncio.to_thread(LegacyDriver), detected.legacy_tables
