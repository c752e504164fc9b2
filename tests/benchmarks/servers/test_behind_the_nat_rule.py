"""Benchmark cases whose requests pass the nat rule, as on a real node."""

import json

import pytest

from benchmarks.load.nginx import nginx
from benchmarks.load.node import node
from benchmarks.load.node_servers import node_servers
from benchmarks.load.servers import ask, check
from benchmarks.load.wire import FIRST_POD, TIME_WAIT, led_to, wire

pytestmark = pytest.mark.root
PODS = 4


def test_pods_reach_nmi_by_its_rule_and_nginx_by_an_equal_one() -> None:
    with (
        wire(PODS) as wired,
        node_servers(identities=2, core=None, side=wired.node, first_pod=FIRST_POD, imds=wired.imds) as w,
    ):
        pods = w.add_pods(PODS)
        with node(w, core=None, behind=wired) as nmi:
            assert (nmi.address, nmi.port) == ("169.254.169.254", 80)
            nmi.warm(pods)
            answer = nmi.answer(pods[-1])
            state = nmi.side.call(lambda: ask("127.0.0.1", nmi.probe_port, "/debug/state"))
            assert json.loads(state.body)["plumbing"]["in_force"]
            assert wired.node.call(TIME_WAIT.read_text).strip() == "5"
        with wire(PODS) as other, nginx(answer, core=None, side=other.node) as server:
            led = led_to(server, other)
            check(led, answer, source=pods[-1])
            assert (led.address, led.port, led.pids) == ("169.254.169.254", 80, server.pids)
            assert other.node.call(TIME_WAIT.read_text).strip() == "5"
