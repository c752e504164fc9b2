"""NMI's rules in backends that this NMI does not use: of an NMI with other settings, or of the Go implementation.

Rules of other programs are not touched: a chain or table with NMI's name is NMI's, and the reject only if it is equal.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

from nmi.node.nftables_driver import FAMILY
from nmi.node.node_facts import NetfilterPrograms, driver_for, existing_legacy_tables, nft_tables, save_legacy
from nmi.node.redirect_choice import Backend
from nmi.node.rule_maintenance import RuleMaintenance
from nmi.node.rule_text import all_rules, chains_in
from nmi.node.rules import TABLE, RedirectError, RedirectSpec, RuleDriver, TopRule

log = logging.getLogger(__name__)


async def drivers(
    programs: NetfilterPrograms, to: RedirectSpec
) -> AsyncIterator[tuple[Backend, RuleDriver, tuple[TopRule, ...]]]:
    """Yield each backend that may hold a rule, with the rules to look for: the redirect last, because pods do not reach
    the real IMDS while it exists.

    Creates nothing, and loads python-iptables only if a legacy table holds a rule of NMI. Raises StartError.
    """
    both = (to.reject, to.redirect)
    names = await nft_tables(programs)
    if programs.nft is not None and names is not None and (FAMILY, TABLE) in names:
        yield Backend.NFTABLES, await driver_for(Backend.NFTABLES, programs), both
    if programs.iptables_nft is not None and (programs.nft is None or names is not None):
        # Without nft any table may exist.
        existing = tuple(rule for rule in both if names is None or (FAMILY, rule.table) in names)
        if existing:
            yield Backend.IPTABLES_NFT, await driver_for(Backend.IPTABLES_NFT, programs), existing
    tables = await asyncio.to_thread(existing_legacy_tables)
    ours = [rule for rule in both if rule.table in tables and await _in_legacy(programs, rule)]
    if ours:
        yield Backend.IPTABLES_LEGACY, await driver_for(Backend.IPTABLES_LEGACY, programs), tuple(ours)


async def _in_legacy(programs: NetfilterPrograms, rule: TopRule) -> bool:
    if programs.legacy_save is None:
        return True  # only the driver can find out
    saved = await save_legacy(programs.legacy_save, (rule.table,))
    if rule.chain:
        return rule.chain in chains_in(saved)
    return any(chain == rule.hook and rule.is_ours(text) for chain, text in all_rules(saved))


async def remove(programs: NetfilterPrograms, to: RedirectSpec, *, keep: Backend) -> list[str]:
    """Remove NMI's rules from every backend except *keep*. Call it when the rules in *keep* are in force.

    Return a line for each removed rule. Waits for a held lock. Raises RedirectError or StartError.
    """
    removed: list[str] = []
    async for backend, driver, rules in drivers(programs, to):
        if backend is keep:
            continue
        maintenance = RuleMaintenance(driver)
        for rule in rules:
            try:
                rule_exists = await maintenance.find(rule)
            except RedirectError as error:
                # For example a table of the same name with rules of nftables, which iptables cannot read.
                log.warning(
                    "a table of another backend cannot be read; if it holds NMI's rule, remove the rule",
                    extra={"error": f"{backend}: {error}"},
                )
                continue
            if rule_exists:
                await maintenance.remove(rule)
                removed.append(f"{rule.name} ({backend})")
    return removed
