"""Detection of the node's backend: from the text of tables, and on real ones. Excluded: the use of the result."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from nmi.node.backend import Backend, choose, find_programs
from podidentity.exits import StartError
from tests.nmi.node.machines import Machine, Worker

HINT = "*mangle\n:PREROUTING ACCEPT [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
CANARY = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"


def rules(count: int) -> str:
    return "*nat\n:PREROUTING ACCEPT [0:0]\n" + "-A PREROUTING -j KUBE-SERVICES\n" * count + "COMMIT\n"


@pytest.mark.parametrize(
    ("nft", "legacy", "backend"),
    [
        (HINT, rules(9), Backend.NFT),
        (CANARY, rules(9), Backend.NFT),
        (rules(9), HINT, Backend.LEGACY),
        (rules(9), CANARY, Backend.LEGACY),
        (HINT, CANARY, Backend.NFT),
        (rules(1), rules(2), Backend.LEGACY),
        (rules(2), rules(1), Backend.NFT),
        (rules(1), rules(1), Backend.NFT),
        ("", "", Backend.NFT),
        ("", None, Backend.NFT),
        (None, "", Backend.LEGACY),
        (None, None, Backend.LEGACY),
    ],
)
def test_the_backend_is_chosen_by_kubelet_chains_then_rule_count_then_nft(
    nft: str | None, legacy: str | None, backend: Backend
) -> None:
    assert choose(nft, legacy) is backend


def test_a_chain_name_in_a_comment_is_ignored() -> None:
    assert choose(rules(1) + '-A X -m comment --comment ":KUBE-IPTABLES-HINT - "', rules(9)) is Backend.LEGACY


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


def detected(machine: Machine) -> str:
    with Worker(machine, "nft") as worker:
        return str(worker.do("detect"))


@pytest.mark.root
def test_a_node_without_rules_uses_nft_and_detection_creates_no_table(machine: Machine) -> None:
    assert detected(machine) == "nft"
    assert machine.run("cat", "/proc/net/ip_tables_names") == ""
    assert machine.run("iptables-nft-save") == ""


@pytest.mark.root
@pytest.mark.parametrize("chain", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_real_kubelets_chain_is_found(machine: Machine, chain: str, backend: str) -> None:
    machine.run(f"iptables-{backend}", "-t", "mangle", "-N", chain)
    assert detected(machine) == backend


@pytest.mark.root
def test_the_rule_count_decides_on_a_real_node(machine: Machine) -> None:
    machine.run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
    assert detected(machine) == "legacy"
    machine.run("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
    assert detected(machine) == "nft"


@pytest.mark.root
@pytest.mark.parametrize(("left", "elsewhere"), [("legacy", "True"), ("nft", "False")])
def test_a_redirect_in_the_other_backend_is_found(machine: Machine, left: str, elsewhere: str) -> None:
    machine.run("iptables-nft", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    machine.run(f"iptables-{left}", "-t", "nat", "-N", "aad-metadata")
    code = "import asyncio; from nmi.node.backend import detect; print(asyncio.run(detect()).left_elsewhere)"
    assert machine.run(".venv/bin/python", "-c", code) == f"{elsewhere}\n"


def test_programs_are_recognised_by_name(tmp_path: Path) -> None:
    for name in ("iptables-nft", "iptables-nft-save", "iptables-nft-restore", "iptables-legacy"):
        pretend(tmp_path / name, "")
    programs = asyncio.run(find_programs(str(tmp_path)))
    assert programs.nft is not None
    assert programs.nft.restore == str(tmp_path / "iptables-nft-restore")
    assert programs.legacy == str(tmp_path / "iptables-legacy")
    assert programs.legacy_save is None


@pytest.mark.parametrize(
    ("version", "nft"), [("iptables v1.8.9 (nf_tables)", True), ("iptables v1.8.9 (legacy)", False), ("v1.6.1", False)]
)
def test_programs_without_a_variant_in_their_name_report_their_backend(tmp_path: Path, version: str, nft: bool) -> None:
    for name in ("iptables", "iptables-save", "iptables-restore"):
        pretend(tmp_path / name, version)
    programs = asyncio.run(find_programs(str(tmp_path)))
    assert (programs.nft is not None) is nft
    assert (programs.legacy is not None) is not nft


async def test_without_iptables_the_error_names_the_package_to_install(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no iptables program was found: install the package iptables"):
        await find_programs(str(tmp_path))


def pretend(program: Path, version: str) -> None:
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
