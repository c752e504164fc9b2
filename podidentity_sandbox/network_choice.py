"""Choice of the sandbox's network: network namespaces with a nat rule where this machine permits both, or loopback
addresses.

A backend of netfilter counts as usable if the kernel accepts NMI's rule from its programs in a namespace made for this
purpose. The first usable one of `ORDER` is chosen, so that the documented commands of iptables show the rule where they
can.
"""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nmi.node.nftables_driver import ListedTable, put_commands
from nmi.node.node_facts import NetfilterPrograms, find_programs
from nmi.node.redirect_choice import Backend
from nmi.node.rules import CHAIN, TABLE, RedirectSpec
from nmi.subprocesses import SYSTEM_PATH
from podidentity_sandbox.namespaces import COMMAND_SECONDS, NamespaceError, trial
from podidentity_sandbox.network import METADATA_ADDRESS
from podidentity_sandbox.settings import NMI_PORT

ORDER: Final = (Backend.IPTABLES_NFT, Backend.NFTABLES, Backend.IPTABLES_LEGACY)
REDIRECT: Final = RedirectSpec(METADATA_ADDRESS, 80, "127.0.0.1", NMI_PORT).redirect


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """Network namespaces with NMI's rule in *backend*, or loopback addresses because of *reason*."""

    backend: Backend = Backend.NONE
    listing: tuple[str, ...] = ()
    """The command that prints a node's nat rules, to be run on the node. Empty with loopback addresses."""
    reason: str = ""
    """Why there are no namespaces with a rule, and the package that brings what is missing. Empty with namespaces."""

    @property
    def redirects(self) -> bool:
        """Whether pods are network namespaces and a nat rule redirects them to NMI."""
        return self.backend is not Backend.NONE

    @property
    def owner(self) -> str:
        """The chain, with nftables the table, of NMI's rule."""
        return TABLE if self.backend is Backend.NFTABLES else CHAIN

    def rules_in(self, listed: str) -> list[str]:
        """Return the lines that are NMI's in the output of `listing`."""
        return [line.strip() for line in listed.splitlines() if self.owner in line or METADATA_ADDRESS in line]


async def choose_network(path: str = SYSTEM_PATH) -> NetworkChoice:
    """Return the network that is possible here, by a trial of the programs of netfilter in *path*."""
    if os.geteuid() != 0:
        return NetworkChoice(reason="not root")
    if shutil.which("ip") is None:
        return NetworkChoice(reason="the program ip is missing (package iproute2)")
    return await asyncio.to_thread(_tried, await find_programs(path))


def _tried(programs: NetfilterPrograms) -> NetworkChoice:
    if not programs.backends:
        return NetworkChoice(reason="no program that writes nat rules is installed (package nftables)")
    try:
        with trial() as prefix:
            installed = [backend for backend in ORDER if backend in programs.backends]
            usable = (backend for backend in installed if _accepts_rule(prefix, backend, programs))
            backend = next(usable, Backend.NONE)
    except NamespaceError:
        return NetworkChoice(reason="this system does not permit network namespaces")
    if backend is Backend.NONE:
        names = ", ".join(sorted(programs.backends))
        return NetworkChoice(reason=f"the kernel accepts no nat rule from the installed programs ({names})")
    if backend is Backend.NFTABLES:
        return NetworkChoice(backend, (str(programs.nft), "list", "ruleset"))
    return NetworkChoice(backend, (str(programs.iptables(backend)), "-t", "nat", "-S"))


def _accepts_rule(prefix: Sequence[str], backend: Backend, programs: NetfilterPrograms) -> bool:
    """Return whether a rule like NMI's can be written in the namespace that *prefix* enters."""
    if backend is Backend.NFTABLES:
        words = [str(programs.nft), "-j", "-f", "-"]
        given = json.dumps({"nftables": put_commands(ListedTable(), REDIRECT.base)})
    else:
        words = [str(programs.iptables(backend)), "-t", "nat", "-A", "PREROUTING", *REDIRECT.rules[0].split()]
        given = ""
    try:
        command = [*prefix, *words]
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
