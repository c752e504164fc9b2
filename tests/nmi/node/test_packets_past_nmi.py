"""Bypasses of the redirect, tried with packets, that the reject and conntrack deletion close. Excluded: NMI itself."""

import os
import signal

import pytest

from tests.nmi.node.machines import Worker
from tests.nmi.node.pod_node_imds import IMDS, Site, asked, open_connection, serving
from tests.nmi.node.redirect_process import RedirectProcess

pytestmark = pytest.mark.root

BROKEN = ("ConnectionResetError", "TimeoutError", "closed")
NEVER = "--ipt-update-interval-sec=86400"


def test_the_reject_rule_refuses_pods_immediately_and_no_other_sender(site: Site, backend: str) -> None:
    with serving(site.imds, IMDS, 8080, "other"), Worker(site.node, backend) as worker:
        worker.do("install", "reject")
        assert asked(site.pod, seconds=2.5) == "ConnectionRefusedError", "refused, not left to time out"
        assert asked(site.node) == "imds saw 169.254.0.1"
        assert asked(site.pod, IMDS, 8080) == "other saw 10.244.0.7"
        worker.do("remove", "reject")
        assert asked(site.pod) == "imds saw 10.244.0.7"


def test_redirected_packets_do_not_reach_the_reject_rule(site: Site, backend: str) -> None:
    with Worker(site.node, backend) as worker:
        worker.do("install", "reject")
        worker.do("install")
        assert asked(site.pod) == "nmi saw 10.244.0.7"
        site.node.run(f"iptables-{backend}", "-t", "nat", "-F")
        assert asked(site.pod) == "ConnectionRefusedError"


def test_the_reject_rule_also_ends_older_connections(site: Site, backend: str) -> None:
    with Worker(site.node, backend) as worker:
        old, connect_and_talk = open_connection(site.pod)
        assert connect_and_talk() == "imds saw 10.244.0.7"
        worker.do("install", "reject")
        assert connect_and_talk() in BROKEN
        old.communicate()


def test_the_reject_rule_covers_an_address_that_the_node_translates_to_imds(site: Site, backend: str) -> None:
    service = ("-d", "10.96.0.9", "-p", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", f"{IMDS}:80")
    site.node.run(f"iptables-{backend}", "-t", "nat", "-A", "PREROUTING", *service)
    with Worker(site.node, backend) as worker:
        worker.do("install")
        assert asked(site.pod, "10.96.0.9") == "imds saw 10.244.0.7", (
            "the redirect alone does not apply to that address"
        )
        worker.do("install", "reject")
        assert asked(site.pod, "10.96.0.9") == "ConnectionRefusedError"


def test_a_connection_from_before_the_start_is_ended(site: Site, backend: str) -> None:
    old, connect_and_talk = open_connection(site.pod)
    assert connect_and_talk() == "imds saw 10.244.0.7"
    with RedirectProcess(site.node, "--enable-conntrack-deletion", NEVER) as node:
        assert node.installed()["backend"] == f"iptables-{backend}"
        assert node.until(lambda state: state["forgotten_connections"] > 0)["problem"] is None
        assert connect_and_talk() in BROKEN
        assert asked(site.pod) == "nmi saw 10.244.0.7"
    old.communicate()


def test_a_connection_made_while_the_rule_was_missing_is_ended_after_the_repair(site: Site, backend: str) -> None:
    with RedirectProcess(site.node, "--enable-conntrack-deletion", NEVER) as node:
        node.installed()
        forgotten = node.now()["forgotten_connections"]
        os.kill(node.pid, signal.SIGSTOP)  # so that the test determines the time of the repair
        site.node.run(f"iptables-{backend}", "-t", "nat", "-D", "PREROUTING", "-j", "aad-metadata")
        old, connect_and_talk = open_connection(site.pod)
        assert connect_and_talk() == "imds saw 10.244.0.7"
        os.kill(node.pid, signal.SIGCONT)
        node.until(lambda state: state["repairs"] == 1 and state["forgotten_connections"] > forgotten)
        assert connect_and_talk() in BROKEN
        assert asked(site.pod) == "nmi saw 10.244.0.7"
    old.communicate()


def test_a_connection_of_the_node_to_imds_survives_the_deletion(site: Site, backend: str) -> None:
    own, connect_and_talk = open_connection(site.node)
    assert connect_and_talk() == "imds saw 169.254.0.1"
    with RedirectProcess(site.node, "--enable-conntrack-deletion", NEVER) as node:
        assert node.installed()["backend"] == f"iptables-{backend}"
        assert connect_and_talk() == "imds saw 169.254.0.1"
    own.communicate()
