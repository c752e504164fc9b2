"""AKS's own block of IMDS for pods and NMI on one node, tried with packets: NMI's redirect leads to INPUT, the block is
in FORWARD. The rule and its source: `aks`."""

import time

import pytest

from tests.nmi.node import aks
from tests.nmi.node.pod_node_imds import Site, asked
from tests.nmi.node.redirect_process import RedirectProcess
from tests.support.waiting import until_sync

pytestmark = pytest.mark.root

SECONDS = 1.5


@pytest.mark.parametrize("table", aks.TABLES)
def test_without_nmi_pods_cannot_reach_imds_and_the_node_can(site: Site, backend: str, table: str) -> None:
    aks.restrict(site.node, backend, table)
    assert asked(site.pod, seconds=SECONDS) == "TimeoutError"
    assert asked(site.node) == "imds saw 169.254.0.1"


@pytest.mark.parametrize("table", aks.TABLES)
@pytest.mark.parametrize("flags", [(), ("--fail-closed",)], ids=["open", "fail-closed"])
@pytest.mark.parametrize("first", ["aks", "nmi"])
def test_with_nmi_pods_reach_nmi_and_the_node_reaches_imds(
    site: Site, backend: str, table: str, flags: tuple[str, ...], first: str
) -> None:
    if first == "aks":
        aks.restrict(site.node, backend, table)
    with RedirectProcess(site.node, *flags) as nmi:
        nmi.installed()
        aks.restrict(site.node, backend, table)
        if flags and table == "filter":
            until_reject_is_first(site, backend)
        assert asked(site.pod) == "nmi saw 10.244.0.7"
        assert asked(site.node) == "imds saw 169.254.0.1"
    # After an orderly stop, and even if nat is flushed: AKS's rule drops, or our reject refuses where it comes first.
    site.node.run(f"iptables-{backend}", "-t", "nat", "-F")
    refused = "ConnectionRefusedError" if flags and table == "filter" else "TimeoutError"
    assert asked(site.pod, seconds=SECONDS) == refused
    assert aks.COMMENT in site.node.run(f"iptables-{backend}", "-t", table, "-S"), "AKS's rules remain"


def until_reject_is_first(site: Site, backend: str) -> None:
    """Wait until NMI has put its reject rule before AKS's rule, which the script inserted first in the chain."""
    until_sync(lambda: "tcp-reset" in site.node.rules(backend, "FORWARD")[0], "the reject rule is first again")


def test_nmi_and_the_kubelet_start_script_do_not_undo_each_others_rules(site: Site, backend: str) -> None:
    with RedirectProcess(site.node, "--fail-closed", "--ipt-update-interval-sec=1") as nmi:
        nmi.installed()
        for _ in range(3):
            aks.restrict(site.node, backend, "filter")
            time.sleep(1.5)
        until_reject_is_first(site, backend)
        assert nmi.now()["repairs"] <= 1, "the script inserts its rule once, before ours; ours is put back once"
        order = site.node.rules(backend, "FORWARD")
    assert len(order) == 2
    assert "tcp-reset" in order[0]
    assert aks.COMMENT in order[1]
