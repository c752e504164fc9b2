"""Prometheus metrics of the node. Excluded: when they change (test_rule_maintenance, test_fail_closed)."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nmi.node.metrics import NodeMetrics
from nmi.node.network_monitor import NetworkMonitor
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.settings import parse


@pytest.mark.parametrize(
    ("flags", "in_force"),
    [([], "0.0"), (["--fail-closed"], "0.0"), (["--redirect=none"], "1.0")],
    ids=["not prepared", "not closed yet", "not asked for"],
)
def test_the_metrics_exist_before_the_first_event(flags: list[str], in_force: str) -> None:
    registry = CollectorRegistry()
    NodeMetrics(registry, TrafficRedirect(parse(["--node=n1", *flags], {})), NetworkMonitor())
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert lines == [
        "aadpodidentity_nmi_iptables_repairs_total 0.0",
        "aadpodidentity_nmi_iptables_failures_total 0.0",
        "aadpodidentity_nmi_conntrack_deleted_total 0.0",
        "aadpodidentity_nmi_network_listening 0.0",
        "aadpodidentity_nmi_network_lists_total 0.0",
        f"aadpodidentity_nmi_redirect_in_force {in_force}",
        "aadpodidentity_nmi_fail_closed 0.0",
    ]
