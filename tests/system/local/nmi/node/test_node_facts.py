"""Facts about the node, from texts and from real tables, and the backend that follows from them on a real node.

Excluded: the choice for every combination of facts (test_redirect_choice).
"""

import sys
from pathlib import Path

import pytest

from nmi.node.node_facts import NetfilterPrograms, find_programs, nft_tables, table_facts
from nmi.node.redirect_choice import TableFacts
from tests.support.nmi.node.fixtures import script_in
from tests.support.nmi.node.machines import NEVER, Machine, Worker
from tests.support.nmi.node.redirect_process import RedirectProcess

SAVED = """*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -m comment --comment ":KUBE-IPTABLES-HINT - " -j RETURN
COMMIT
"""


def test_rules_and_chains_of_users_are_read_from_a_saved_table() -> None:
    assert table_facts(SAVED) == TableFacts(2, frozenset({"KUBE-SERVICES"}))
    assert table_facts("").empty
    assert table_facts("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n").empty


def detected(machine: Machine) -> str:
    with Worker(machine, "nft") as worker:
        return str(worker.do("detect"))


CANARY = "-t mangle -N KUBE-KUBELET-CANARY"
MASQUERADE = "-t nat -A POSTROUTING -j MASQUERADE"


@pytest.mark.root
@pytest.mark.parametrize(
    ("commands", "backend"),
    [
        ([f"iptables-legacy {CANARY}"], "iptables-legacy"),
        (["iptables-nft -t mangle -N KUBE-IPTABLES-HINT"], "iptables-nft"),
        ([f"iptables-nft {CANARY}", "nft add table ip6 kube-proxy"], "iptables-nft"),
        ([f"iptables-nft {CANARY}", "nft add table ip kube-proxy"], "nftables"),
        ([f"iptables-legacy {CANARY}", "nft add table ip kube-proxy"], "nftables"),
        ([f"iptables-legacy {MASQUERADE}"], "iptables-legacy"),
        ([f"iptables-legacy {MASQUERADE}", f"iptables-nft {MASQUERADE}"], "iptables-nft"),
    ],
)
def test_the_backend_follows_from_chains_tables_and_rules(machine: Machine, commands: list[str], backend: str) -> None:
    for command in commands:
        machine.run(*command.split())
    assert detected(machine) == backend


@pytest.mark.root
def test_a_node_without_rules_uses_nftables_and_reading_facts_creates_no_table(machine: Machine) -> None:
    assert detected(machine) == "nftables"
    assert machine.run("cat", "/proc/net/ip_tables_names") == ""
    assert machine.run("nft", "list", "tables") == ""


VERSION = "nftables v1.0.6 (Lester Gooch #5)\n  cli:\t\teditline\n  json:\t\t{}"
TABLES = "table ip nat\ntable ip aad-pod-identity-4035\ntable inet x\n"
INVALID = '{"nftables": [{"table": {"family": "ip", "name": "aad-pod-identity-4035", "handle": 3, "flags": '
"""What nft 1.0.6 prints as JSON for a table with the flag `owner`, a flush guard; its text comes from unset memory."""


async def tables_of(folder: Path, version: str) -> frozenset[tuple[str, str]] | None:
    """Return the tables that NMI finds with an nft of this version next to another NMI's flush guard."""
    (folder / "version").write_text(version)
    (folder / "-j").write_text(INVALID)
    (folder / "list").write_text(TABLES)
    program = script_in(folder, "nft", f"cd {folder}\ncase $1 in -V) cat version ;; *) cat ./$1 ;; esac")
    return await nft_tables(NetfilterPrograms(nft=program))


async def test_the_flush_guard_of_another_nmi_hides_no_table(tmp_path: Path) -> None:
    tables = await tables_of(tmp_path, VERSION.format("yes"))
    assert tables == frozenset({("ip", "nat"), ("ip", "aad-pod-identity-4035"), ("inet", "x")})


@pytest.mark.parametrize("version", [VERSION.format("no"), "nftables v0.8 (Joe Btfsplk)", ""])
async def test_nft_without_json_is_not_usable(tmp_path: Path, version: str) -> None:
    assert await tables_of(tmp_path, version) is None


@pytest.mark.root
def test_kube_proxys_table_is_found_next_to_two_flush_guards(machine: Machine) -> None:
    machine.run("iptables-nft", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    machine.run("nft", "add", "table", "ip", "kube-proxy")
    flags = ("--fail-closed", NEVER)
    with RedirectProcess(machine, *flags) as former, RedirectProcess(machine, *flags) as latter:
        assert former.installed()["flush_guard"] != latter.installed()["flush_guard"]
        assert detected(machine) == "nftables"


@pytest.mark.root
def test_route_localnet_and_cilium_interfaces_are_read(machine: Machine) -> None:
    code = (
        "import asyncio; from nmi.node.node_facts import read_facts; facts = asyncio.run(read_facts()).facts; "
        "print(facts.localnet_problem is None, facts.cilium)"
    )
    assert machine.run(sys.executable, "-c", code) == "False False\n"
    machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
    machine.run("ip", "link", "add", "cilium_host", "type", "veth", "peer", "name", "cilium_net")
    assert machine.run(sys.executable, "-c", code) == "True True\n"


async def test_programs_are_recognised_by_name(tmp_path: Path) -> None:
    assert (await find_programs(str(tmp_path))).backends == frozenset()
    for name in ("iptables-nft", "iptables-nft-save", "iptables-nft-restore", "iptables-legacy", "nft"):
        script_in(tmp_path, name, "true")
    programs = await find_programs(str(tmp_path))
    assert programs.iptables_nft is not None
    assert programs.nft == str(tmp_path / "nft")
    assert programs.iptables_nft.restore == str(tmp_path / "iptables-nft-restore")
    assert programs.legacy == str(tmp_path / "iptables-legacy")
    assert programs.legacy_save is None


@pytest.mark.parametrize(
    ("version", "nft"), [("iptables v1.8.9 (nf_tables)", True), ("iptables v1.8.9 (legacy)", False), ("v1.6.1", False)]
)
async def test_programs_without_a_variant_in_their_name_report_their_backend(
    tmp_path: Path, version: str, nft: bool
) -> None:
    for name in ("iptables", "iptables-save", "iptables-restore"):
        script_in(tmp_path, name, f"echo '{version}'")
    programs = await find_programs(str(tmp_path))
    assert (programs.iptables_nft is not None) is nft
    assert (programs.legacy is not None) is not nft
