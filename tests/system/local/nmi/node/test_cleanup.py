"""`nmi --cleanup`: the rules that it removes and keeps, and its output. Excluded: a concurrently running NMI."""

import subprocess
import sys

import pytest

from tests.support.nmi.node.machines import Lock, Machine, Program, Worker
from tests.support.nmi.node.redirect_process import RedirectProcess

pytestmark = pytest.mark.root

REFERENCE = """*nat
:aad-metadata - [0:0]
-A PREROUTING -j aad-metadata
-A aad-metadata ! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.4:2579
-A aad-metadata -j RETURN
COMMIT
"""


def cleanup(machine: Machine, *flags: str) -> "subprocess.CompletedProcess[str]":
    return machine.finish(sys.executable, "-m", "nmi", "--cleanup", *flags)


def test_cleanup_removes_both_rules_from_either_backend_and_logs_it(machine: Machine) -> None:
    before = {}
    for backend in ("nft", "legacy"):
        machine.run(f"iptables-{backend}", "-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE")
        machine.run(f"iptables-{backend}", "-A", "FORWARD", "-p", "tcp", "-j", "ACCEPT")
        before[backend] = machine.saved(backend)
        with Worker(machine, backend) as worker:
            worker.do("install", "reject")
            worker.do("install")
        assert machine.saved(backend) != before[backend]
    done = cleanup(machine)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "removed the reject of 169.254.169.254 (filter of iptables-nft)",
        "removed the redirect of 169.254.169.254 (nat of iptables-nft)",
        "removed the reject of 169.254.169.254 (filter of iptables-legacy)",
        "removed the redirect of 169.254.169.254 (nat of iptables-legacy)",
    ]
    for backend, saved in before.items():
        assert machine.saved(backend) == saved
    again = cleanup(machine)
    assert (again.returncode, again.stderr, again.stdout) == (0, "", "there was nothing of NMI on this node\n")


def test_cleanup_removes_nmis_table_of_nftables_with_all_its_contents_and_no_other(machine: Machine) -> None:
    machine.run("nft", "add", "table", "inet", "aad-pod-identity")
    machine.run("nft", "add", "table", "ip", "aad-pod-identity-other")
    before = machine.run("nft", "list", "ruleset")
    with Worker(machine, "nftables") as worker:
        worker.do("install", "reject")
        worker.do("install")
        worker.do("withdraw")
    machine.run("nft", "add", "set", "ip", "aad-pod-identity", "other", "{ type ipv4_addr; }")
    done = cleanup(machine)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "removed the reject of 169.254.169.254 (nftables)",
        "removed the redirect of 169.254.169.254 (nftables)",
    ]
    assert machine.run("nft", "list", "ruleset") == before


def test_a_table_of_nmi_without_its_chains_is_removed_too_and_a_clean_node_gets_no_new_table(machine: Machine) -> None:
    for command in ("true", "nft add table ip aad-pod-identity '{ flags dormant; }'"):
        machine.run("sh", "-c", command)
        assert cleanup(machine).returncode == 0
        assert machine.run("nft", "list", "ruleset") == ""
        assert machine.run("cat", "/proc/net/ip_tables_names") == ""


def test_rules_of_the_go_implementation_are_removed_too(machine: Machine, backend: str) -> None:
    machine.run(f"iptables-{backend}-restore", given=REFERENCE)
    assert cleanup(machine).returncode == 0
    assert not [line for line in machine.saved(backend) if "aad-metadata" in line or line.startswith("-A")]


def test_rules_of_a_killed_nmi_are_removed_and_the_loopback_guard_remains(machine: Machine) -> None:
    with RedirectProcess(machine, "--fail-closed", "--route-localnet=set") as node:
        node.installed()
        node.kill()
    assert cleanup(machine).returncode == 0
    left = [line for line in machine.saved("nft") if line.startswith("-A")]
    assert len(left) == 1
    assert left[0].startswith("-A INPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8")


def test_rules_for_other_addresses_are_removed_with_nmis_flags(machine: Machine) -> None:
    flags = ("--nmi-listen-address=0.0.0.0", "--nmi-port=99", "--metadata-ip=10.9.9.9", "--metadata-port=81")
    with RedirectProcess(machine, "--fail-closed", *flags) as node:
        node.installed()
        rules = machine.run("nft", "-s", "list", "table", "ip", "aad-pod-identity")
        assert "ip daddr 10.9.9.9 tcp dport 81 counter dnat to 127.0.0.1:99" in rules, "a listener on all addresses"
    assert cleanup(machine, *flags).stdout.count("removed") == 2
    assert machine.run("nft", "list", "ruleset") == ""


def test_without_permission_cleanup_fails_in_one_line(machine: Machine, backend: str) -> None:
    machine.run(f"iptables-{backend}-restore", given=REFERENCE)
    done = machine.finish(
        "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-m", "nmi", "--cleanup"
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "give NMI the capability NET_ADMIN" in done.stderr


def test_cleanup_waits_for_a_held_lock(machine: Machine) -> None:
    machine.run("iptables-legacy-restore", given=REFERENCE)
    with Lock(machine) as lock:
        waiting = Program(machine.start(sys.executable, "-m", "nmi", "--cleanup"))
        lock.has_refused(2)
    assert waiting.end() == (0, "removed the redirect of 169.254.169.254 (nat of iptables-legacy)\n")
