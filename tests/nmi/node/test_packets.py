"""The effect of the redirect on packets. Excluded: the rule's text; the common case (test_effect).

Bypasses are in test_packets_past_nmi.
"""

import sys

import pytest

from tests.nmi.node.machines import Machine, Worker
from tests.nmi.node.pod_node_imds import IMDS, Site, asked, open_connection, serving

pytestmark = pytest.mark.root

PRETENDED = "10.99.0.1"


def test_other_ports_and_addresses_are_not_redirected(site: Site, backend: str) -> None:
    with (
        serving(site.imds, IMDS, 8080, "other"),
        serving(site.node, "10.244.0.1", 80, "node"),
        Worker(site.node, backend) as worker,
    ):
        worker.do("install")
        assert asked(site.pod, IMDS, 8080) == "other saw 10.244.0.7"
        assert asked(site.pod, "10.244.0.1", 80) == "node saw 10.244.0.7"


def test_without_route_localnet_packets_are_dropped_and_the_check_names_the_cause(site: Site, backend: str) -> None:
    # A change of conf.all does not change existing interfaces. Each has a switch, and one of both is enough.
    site.node.set_sysctl({"net/ipv4/conf/all/route_localnet": "0"})
    code = "from nmi.node import route_localnet; print(route_localnet.fault())"
    with Worker(site.node, backend) as worker:
        worker.do("install")
        assert asked(site.pod, seconds=0.5) == "TimeoutError"
        assert "sysctl -w net.ipv4.conf.all.route_localnet=1" in site.node.run(sys.executable, "-c", code)
        site.node.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
        assert site.node.run(sys.executable, "-c", code) == "None\n"
        assert asked(site.pod) == "nmi saw 10.244.0.7"


@pytest.mark.parametrize("private", ["127.0.0.1", "127.0.0.53"])
def test_the_guard_drops_packets_of_neighbours_and_accepts_redirected_ones(
    site: Site, backend: str, private: str
) -> None:
    # The neighbour of CVE-2020-8558 sends packets for a loopback address to the node; systemd-resolved, for one, is at
    # 127.0.0.53. Its own kernel takes no answers from such an address, so it asks for another one, which becomes the
    # loopback address on the way out.
    site.pod.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
    site.pod.run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
    site.pod.run("ip", "route", "add", f"{private}/32", "via", "10.244.0.1", "src", "10.244.0.7")
    site.pod.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", PRETENDED, "-j", "DNAT", "--to", private)
    with Worker(site.node, backend) as worker, serving(site.node, private, 10250, "private"):
        worker.do("install")
        site.node.run(f"iptables-{backend}", "-A", "INPUT", "-j", "ACCEPT")
        assert asked(site.pod, PRETENDED, 10250) == "private saw 10.244.0.7"
        guard(site.node, backend)
        assert asked(site.pod, PRETENDED, 10250, seconds=0.5) == "TimeoutError"
        assert asked(site.pod) == "nmi saw 10.244.0.7"
        assert asked(site.node, private, 10250).startswith("private saw 127.0.0.")


def guard(machine: Machine, backend: str) -> None:
    call = f"ensure_guard('/usr/sbin/iptables-{backend}')"
    machine.run(
        sys.executable, "-c", f"import asyncio; from nmi.node.route_localnet import ensure_guard; asyncio.run({call})"
    )


def test_conntrack_entries_from_before_the_rule_are_deleted_and_those_to_nmi_are_not(site: Site, backend: str) -> None:
    with Worker(site.node, backend) as worker:
        old, old_talk = open_connection(site.pod)
        assert old_talk() == "imds saw 10.244.0.7"
        worker.do("install")
        new, new_talk = open_connection(site.pod)
        assert new_talk() == "nmi saw 10.244.0.7"
        assert old_talk() == "imds saw 10.244.0.7", "the kernel keeps tracked connections, so they must be deleted"
        assert worker.do("forget") == 1
        assert old_talk() in ("ConnectionResetError", "TimeoutError", "closed")
        assert new_talk() == "nmi saw 10.244.0.7"
        assert worker.do("forget") == 0
        for process in (old, new):
            process.communicate()
