"""The flush guard, tried with packets and with the programs that change tables. Excluded: the repair of the rules."""

import operator
import os
import signal
from collections.abc import Iterator

import pytest

from tests.nmi.node.machines import Machine
from tests.nmi.node.pod_node_imds import Site, asked, sites
from tests.nmi.node.redirect_process import RedirectProcess
from tests.support.waiting import until_sync

NEVER = "--ipt-update-interval-sec=86400"
FLUSH = ("nft", "flush", "ruleset")


@pytest.fixture
def nft_site() -> Iterator[Site]:
    with sites("nft") as site:
        yield site


def guards(machine: Machine) -> list[str]:
    """Return the names of the tables of flush guards."""
    lines = machine.run("nft", "list", "tables").splitlines()
    return [line.split()[2] for line in lines if line.startswith("table ip aad-pod-identity-")]


@pytest.mark.root
@pytest.mark.parametrize("backend", ["iptables-nft", "nftables"])
def test_no_packet_reaches_imds_between_a_flush_and_the_repair(nft_site: Site, backend: str) -> None:
    with RedirectProcess(nft_site.node, "--fail-closed", f"--redirect={backend}", NEVER) as node:
        assert node.installed()["flush_guard"] in guards(nft_site.node)
        assert asked(nft_site.pod) == "nmi saw 10.244.0.7"
        os.kill(node.pid, signal.SIGSTOP)  # so that nothing is repaired
        nft_site.node.run(*FLUSH)
        assert nft_site.node.saved("nft") == []
        assert asked(nft_site.pod) == "ConnectionRefusedError"
        assert asked(nft_site.node) == "imds saw 169.254.0.1"
        os.kill(node.pid, signal.SIGCONT)
        node.until(lambda state: state["repairs"] == 2 and state["problem"] is None)
        assert asked(nft_site.pod) == "nmi saw 10.244.0.7"


@pytest.mark.root
def test_two_processes_have_a_guard_each(nft_site: Site) -> None:
    with RedirectProcess(nft_site.node, "--fail-closed", NEVER) as old:
        old.installed()
        with RedirectProcess(nft_site.node, "--fail-closed", NEVER) as new:
            assert {old.now()["flush_guard"], new.installed()["flush_guard"]} == set(guards(nft_site.node))
            assert len(guards(nft_site.node)) == 2
        assert guards(nft_site.node) == [old.now()["flush_guard"]]


@pytest.mark.root
def test_the_guard_ends_with_its_process_and_the_reject_remains(nft_site: Site) -> None:
    with RedirectProcess(nft_site.node, "--fail-closed", NEVER) as node:
        node.installed()
        node.kill()
    until_sync(lambda: guards(nft_site.node), "no guard", holds=operator.not_)
    assert any("169.254.169.254" in line for line in nft_site.node.rules("nft", "FORWARD"))


@pytest.mark.root
def test_without_fail_closed_there_is_no_guard(nft_site: Site) -> None:
    with RedirectProcess(nft_site.node, NEVER) as node:
        assert node.installed()["flush_guard"] == ""
        assert guards(nft_site.node) == []


@pytest.mark.root
def test_no_other_process_can_delete_the_guard(nft_site: Site) -> None:
    with RedirectProcess(nft_site.node, "--fail-closed", NEVER) as node:
        table = node.installed()["flush_guard"]
        assert "not permitted" in nft_site.node.finish("nft", "delete", "table", "ip", table).stderr
