"""EPERM for a write after a read that succeeded: the message names AKS's kernel program, not a missing capability."""

import functools
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nmi.node import route_localnet
from nmi.node.nft_driver import NftDriver, NftPrograms
from nmi.node.nftables_driver import NftablesDriver
from nmi.node.rules import RedirectSpec, RuleDriver
from podidentity.exits import StartError
from tests.support.nmi.node.fixtures import script_in
from tests.support.nmi.node.machines import Machine

TO = RedirectSpec("169.254.169.254", 80, "127.0.0.1", 2579)
REFUSED = "RULE_INSERT failed (Operation not permitted): rule in chain PREROUTING"
Program = Callable[[str, str], str]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Return a function that writes a program."""
    return functools.partial(script_in, tmp_path)


def refusing(words: str, then: str = "exit 0") -> str:
    """A script that refuses arguments with *words*."""
    return f'case "$*" in *{words}*) echo "{REFUSED}" >&2; exit 4;; esac\n{then}'


def iptables_nft(program: Program, restore: str, read: str) -> RuleDriver:
    return NftDriver(NftPrograms(program("iptables", read), program("save", read), program("restore", restore)))


@pytest.mark.programs
@pytest.mark.parametrize("backend", ["iptables-nft", "nftables", "the guard of loopback"])
async def test_a_refused_write_names_the_kernel_program(program: Program, backend: str) -> None:
    missing = 'echo "Error: No such file or directory" >&2; exit 1'
    writes: dict[str, Callable[[], Awaitable[object]]] = {
        "iptables-nft": lambda: iptables_nft(program, refusing(""), "exit 0").put(TO.redirect),
        "nftables": lambda: NftablesDriver(program("nft", refusing("-f", missing))).put(TO.redirect),
        "the guard of loopback": lambda: route_localnet.ensure_guard(program("iptables", refusing("-I"))),
    }
    with pytest.raises(StartError, match=r"azure-block-iptables.*nmi\.redirect\.backend=cilium") as caught:
        await writes[backend]()
    assert REFUSED in str(caught.value)
    assert "NET_ADMIN" not in str(caught.value)


@pytest.mark.programs
async def test_a_refused_read_names_the_capability(program: Program) -> None:
    for driver in (iptables_nft(program, "exit 0", refusing("")), NftablesDriver(program("nft", refusing("")))):
        with pytest.raises(StartError, match="give NMI the capability NET_ADMIN"):
            await driver.put(TO.redirect)
    with pytest.raises(StartError, match="NET_ADMIN"):
        await route_localnet.ensure_guard(program("iptables", refusing("")))


@pytest.mark.programs
async def test_a_failed_read_does_not_count_as_a_missing_guard(program: Program) -> None:
    with pytest.raises(StartError, match=r"cannot read filter/INPUT .*Bad rule.*: look there for the guard"):
        await route_localnet.has_guard(program("iptables", 'echo "iptables: Bad rule" >&2; exit 1'))


LEGACY = """
import asyncio
from nmi.node.legacy_driver import LegacyDriver
from nmi.node.rules import RedirectSpec
driver, rule = LegacyDriver(), RedirectSpec("169.254.169.254", 80, "127.0.0.1", 2579).redirect
import iptc
def refuse(table):
    raise iptc.IPTCError("can't commit: b'Permission denied (you must be root)'")
iptc.Table.commit = refuse
for step in (driver.put, driver.clear):
    try:
        asyncio.run(step(rule))
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.root
def test_a_refused_write_of_legacy_iptables_names_the_kernel_program(machine: Machine) -> None:
    machine.run("iptables-legacy", "-t", "nat", "-N", "aad-metadata")
    lines = machine.run(sys.executable, "-c", LEGACY).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("StartError the kernel refused a rule")
        assert "azure-block-iptables" in line
