"""Detection of the iptables backend of this node, without creating anything in either backend.

A rule in the other backend would work too at first. But the node's own tools would not show it, and its order against
the node's own rules would be undefined. Opening a table of the legacy backend creates it, so that backend is only
queried for the tables that the kernel lists.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nmi.node.nft_driver import NOT_PERMITTED, NftPrograms
from nmi.node.rule_text import all_rules, chains_in
from nmi.node.rules import CHAIN
from nmi.subprocesses import SYSTEM_PATH, Finished, find_program, run
from podidentity.exits import StartError

LEGACY_TABLES = Path("/proc/net/ip_tables_names")
"""The legacy tables that exist in this network namespace, one per line; absent without the kernel's module."""

_KUBELET_CHAINS = frozenset(("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"))
"""Chains that every kubelet since 1.17 keeps in mangle, in its backend."""


class Backend(StrEnum):
    """The implementation that stores the rules of iptables."""

    LEGACY = "legacy"
    NFT = "nft"


@dataclass(frozen=True, slots=True)
class IptablesPrograms:
    """The iptables programs of this image, for at least one backend."""

    nft: NftPrograms | None
    legacy: str | None
    """Path of the legacy iptables."""
    legacy_save: str | None


@dataclass(frozen=True, slots=True)
class DetectedBackend:
    """The node's backend, and its programs."""

    backend: Backend
    programs: IptablesPrograms
    legacy_tables: frozenset[str]
    """The legacy tables that existed."""
    left_elsewhere: bool = False
    """Whether the other backend holds a chain of NMI or of the Go implementation."""

    @property
    def iptables(self) -> str | None:
        """Path of the iptables program of this backend."""
        if self.backend is Backend.LEGACY:
            return self.programs.legacy
        return self.programs.nft.iptables if self.programs.nft else None


def choose(nft: str | None, legacy: str | None) -> Backend:
    """Return the node's backend, from each one's iptables-save output; None for a backend that is unavailable."""
    if nft is None or legacy is None:
        return Backend.LEGACY if nft is None else Backend.NFT
    for backend, saved in ((Backend.NFT, nft), (Backend.LEGACY, legacy)):
        if chains_in(saved) & _KUBELET_CHAINS:
            return backend
    return Backend.LEGACY if _count(legacy) > _count(nft) else Backend.NFT


def _count(saved: str) -> int:
    return sum(1 for _ in all_rules(saved))


async def find_programs(path: str = SYSTEM_PATH) -> IptablesPrograms:
    """Return the iptables programs in *path*. Raises StartError if there is none for any backend."""
    nft = await _nft_programs("-nft", path)
    legacy = await find_program("iptables-legacy", path=path)
    legacy_save = await find_program("iptables-legacy-save", path=path)
    plain = await find_program("iptables", path=path)
    if plain is not None and (nft is None or legacy is None):
        if "(nf_tables)" in (await run((plain, "--version"))).stdout:
            nft = nft or await _nft_programs("", path)
        elif legacy is None:
            legacy, legacy_save = plain, await find_program("iptables-save", path=path)
    if nft is None and legacy is None:
        raise StartError(
            "no iptables program was found: install the package iptables (1.8 or newer) in NMI's image, or start NMI "
            "with --redirect=none if pods reach it in another way"
        )
    return IptablesPrograms(nft=nft, legacy=legacy, legacy_save=legacy_save)


async def _nft_programs(suffix: str, path: str) -> NftPrograms | None:
    found = [await find_program(f"iptables{suffix}{kind}", path=path) for kind in ("", "-save", "-restore")]
    iptables, save, restore = found
    return NftPrograms(iptables, save, restore) if iptables and save and restore else None


async def detect(*, path: str = SYSTEM_PATH, legacy_tables: Path = LEGACY_TABLES) -> DetectedBackend:
    """Return the backend of this node. Raises StartError if programs or permissions are missing."""
    programs = await find_programs(path)
    tables = await asyncio.to_thread(_existing, legacy_tables)
    nft = legacy = None
    if programs.nft is not None:
        nft = _saved(await run((programs.nft.save,)))
    if tables and programs.legacy_save is not None:
        legacy = await _save_legacy(programs.legacy_save, sorted(tables))
    backend = choose(nft, legacy)
    other = legacy if backend is Backend.NFT else nft
    return DetectedBackend(backend, programs, tables, left_elsewhere=CHAIN in chains_in(other or ""))


async def _save_legacy(program: str, tables: Iterable[str]) -> str:
    return "".join([_saved(await run((program, "-t", table))) or "" for table in tables])


def _saved(done: Finished) -> str | None:
    """Return a save program's output; None if the kernel lacks its backend. Raises StartError if permissions are
    missing.
    """
    if done.not_permitted:
        raise StartError(f"{NOT_PERMITTED} ({done.complaint})")
    return done.stdout if done.code == 0 else None


def _existing(names: Path) -> frozenset[str]:
    try:
        return frozenset(names.read_text().split())
    except FileNotFoundError:
        return frozenset()
    except PermissionError as error:
        raise StartError(f"{NOT_PERMITTED} ({names}: {error.strerror})") from error
