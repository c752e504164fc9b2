"""Facts about the node for `redirect_choice`, read without creating anything in any backend.

Opening a table of the legacy backend creates it, so that backend is only queried for the tables that the kernel lists.
"""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from nmi.node import route_localnet
from nmi.node.legacy_driver import LegacyDriver
from nmi.node.nft_driver import NftDriver, NftPrograms
from nmi.node.nftables_driver import NftablesDriver
from nmi.node.redirect_choice import Backend, NodeFacts, TableFacts
from nmi.node.refused_rules import NOT_PERMITTED
from nmi.node.rule_text import all_rules, chains_in
from nmi.node.rules import RuleDriver
from nmi.subprocesses import SYSTEM_PATH, Finished, find_program, run
from podidentity.exits import StartError

LEGACY_TABLES = Path("/proc/net/ip_tables_names")
"""The legacy tables that exist in this network namespace, one per line; absent without the kernel's module."""

_JSON_SUPPORT = re.compile(r"^\s*json:\s*yes$", re.MULTILINE)
"""The line of `nft -V` that reports support for JSON."""
_KERNEL_CHAINS = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))


class NetfilterPrograms(msgspec.Struct, frozen=True):
    """The programs of this image. None for a missing one."""

    iptables_nft: NftPrograms | None = None
    legacy: str | None = None
    """Path of the legacy iptables."""
    legacy_save: str | None = None
    nft: str | None = None
    """Path of nft."""

    @property
    def backends(self) -> frozenset[Backend]:
        """Return the backends that have their programs."""
        programs = {
            Backend.IPTABLES_NFT: self.iptables_nft,
            Backend.IPTABLES_LEGACY: self.legacy,
            Backend.NFTABLES: self.nft,
        }
        return frozenset(backend for backend, program in programs.items() if program is not None)

    def iptables(self, backend: Backend) -> str | None:
        """Return the path of iptables for *backend*; for nftables, of the iptables whose rules are in nf_tables."""
        nft = self.iptables_nft.iptables if self.iptables_nft is not None else None
        return self.legacy if backend is Backend.IPTABLES_LEGACY else nft

    def save(self, backend: Backend) -> str | None:
        """Return the path of iptables-save for *backend*."""
        nft = self.iptables_nft.save if self.iptables_nft is not None else None
        return self.legacy_save if backend is Backend.IPTABLES_LEGACY else nft


class NodeReading(msgspec.Struct, frozen=True):
    """The facts, and the programs that read them."""

    facts: NodeFacts
    programs: NetfilterPrograms
    legacy_tables: frozenset[str]
    """The legacy tables that existed."""


async def read_facts(
    *,
    node_address: str | None = None,
    path: str = SYSTEM_PATH,
    legacy_tables: Path = LEGACY_TABLES,
    conf: Path = route_localnet.CONF,
) -> NodeReading:
    """Return the facts about this node, except its labels. Raises StartError if permissions are missing."""
    programs = await find_programs(path)
    tables = await asyncio.to_thread(existing_legacy_tables, legacy_tables)
    nft = legacy = None
    if programs.iptables_nft is not None:
        nft = _saved(await run((programs.iptables_nft.save,)))
    # To read a legacy table that does not exist would create it.
    if tables and programs.legacy_save is not None:
        legacy = await save_legacy(programs.legacy_save, tables)
    facts = NodeFacts(
        iptables_nft=table_facts(nft) if nft is not None else None,
        iptables_legacy=table_facts(legacy) if legacy is not None else None,
        nft_tables=await nft_tables(programs),
        programs=programs.backends,
        localnet_problem=await asyncio.to_thread(route_localnet.fault, conf),
        cilium_interface=await asyncio.to_thread(_has_cilium, conf),
        node_address=node_address,
    )
    return NodeReading(facts, programs, tables)


async def nft_tables(programs: NetfilterPrograms) -> frozenset[tuple[str, str]] | None:
    """Return family and name of each table of nftables; None if nft is missing, fails, or has no support for JSON.

    The driver of nftables needs JSON. The list itself is read as text: nft 1.0.6 prints invalid JSON for a table with
    the flag `owner`, and another NMI's flush guard is one. Raises StartError if permissions are missing.
    """
    if programs.nft is None or not _JSON_SUPPORT.search((await run((programs.nft, "-V"))).stdout):
        return None
    listed = _saved(await run((programs.nft, "list", "tables")))
    return _names(listed) if listed is not None else None


async def driver_for(backend: Backend, programs: NetfilterPrograms) -> RuleDriver:
    """Return the driver of *backend*. Only the legacy one imports python-iptables, when it is made.

    Raises StartError if its programs are not installed.
    """
    if backend is Backend.NFTABLES and programs.nft is not None:
        return NftablesDriver(programs.nft)
    if backend is Backend.IPTABLES_NFT and programs.iptables_nft is not None:
        return NftDriver(programs.iptables_nft)
    if backend is not Backend.IPTABLES_LEGACY:
        raise StartError(f"the programs of {backend} are not installed: install iptables and nftables in NMI's image")
    # Loading python-iptables runs ldconfig and loads a kernel module.
    return await asyncio.to_thread(LegacyDriver)


async def find_programs(path: str = SYSTEM_PATH) -> NetfilterPrograms:
    """Return the programs of netfilter in *path*."""
    nft = await _nft_programs("-nft", path)
    legacy = await find_program("iptables-legacy", path=path)
    legacy_save = await find_program("iptables-legacy-save", path=path)
    plain = await find_program("iptables", path=path)
    if plain is not None and (nft is None or legacy is None):
        # A program named iptables is of either variant; its version states which.
        if "(nf_tables)" in (await run((plain, "--version"))).stdout:
            nft = nft or await _nft_programs("", path)
        elif legacy is None:
            legacy, legacy_save = plain, await find_program("iptables-save", path=path)
    return NetfilterPrograms(nft, legacy, legacy_save, await find_program("nft", path=path))


def table_facts(saved: str) -> TableFacts:
    """Return what the output of iptables-save holds."""
    return TableFacts(sum(1 for _ in all_rules(saved)), frozenset(chains_in(saved) - _KERNEL_CHAINS))


async def save_legacy(program: str, tables: Iterable[str]) -> str:
    """Return the contents of the legacy *tables*, which must exist. Raises StartError if permissions are missing."""
    return "".join([_saved(await run((program, "-t", table))) or "" for table in sorted(tables)])


def existing_legacy_tables(names: Path = LEGACY_TABLES) -> frozenset[str]:
    """Return the legacy tables that exist. Blocks. Raises StartError if permissions are missing."""
    try:
        return frozenset(names.read_text().split())
    except FileNotFoundError:
        return frozenset()
    except PermissionError as error:
        raise StartError(f"{NOT_PERMITTED} ({names}: {error.strerror})") from error


async def _nft_programs(suffix: str, path: str) -> NftPrograms | None:
    paths = [await find_program(f"iptables{suffix}{kind}", path=path) for kind in ("", "-save", "-restore")]
    iptables, save, restore = paths
    return NftPrograms(iptables, save, restore) if iptables and save and restore else None


def _saved(done: Finished) -> str | None:
    """Return a program's output; None if the kernel lacks its backend. Raises StartError if permissions are missing."""
    if done.not_permitted:
        raise StartError(f"{NOT_PERMITTED} ({done.complaint})")
    return done.stdout if done.code == 0 else None


def _names(listed: str) -> frozenset[tuple[str, str]]:
    """Return family and name of each table in the output of `nft list tables`."""
    lines = (line.split() for line in listed.splitlines())
    return frozenset((words[1], words[2]) for words in lines if len(words) == 3 and words[0] == "table")


def _has_cilium(conf: Path) -> bool:
    return any(interface.name.startswith("cilium_") for interface in conf.iterdir())
