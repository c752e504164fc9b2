"""Metrics of the node, collected at each scrape."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nmi.node.network_monitor import NetworkMonitor
from nmi.node.traffic_redirect import TrafficRedirect


class NodeMetrics:
    """Registers itself with *registry*, which keeps it."""

    def __init__(self, registry: CollectorRegistry, redirect: TrafficRedirect, network_monitor: NetworkMonitor) -> None:
        self._redirect = redirect
        self._network_monitor = network_monitor
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics; the registry calls it at each scrape."""
        redirect = self._redirect
        for name, help_text, count in (
            (
                "aadpodidentity_nmi_iptables_repairs",
                "Changed rules of NMI that were restored.",
                redirect.repairs,
            ),
            (
                "aadpodidentity_nmi_iptables_failures",
                "Failed verifications of NMI's rules.",
                redirect.failures,
            ),
            (
                "aadpodidentity_nmi_conntrack_deleted",
                "Connections that bypassed NMI and were ended (--enable-conntrack-deletion).",
                redirect.forgotten,
            ),
        ):
            yield CounterMetricFamily(name, help_text, value=count)
        yield GaugeMetricFamily(
            "aadpodidentity_nmi_network_listening",
            "1 while the kernel reports changes of this node's network, by which NMI notices reused addresses.",
            value=float(self._network_monitor.listening),
        )
        yield CounterMetricFamily(
            "aadpodidentity_nmi_network_lists",
            "Listings of interfaces, routes and neighbours: one at the start, and one after each loss of reports.",
            value=self._network_monitor.dumps,
        )
        yield GaugeMetricFamily(
            "aadpodidentity_nmi_redirect_in_force",
            "1 while pods are redirected to NMI as far as it knows: with --redirect=cilium while NMI's check of the "
            "redirect succeeds, with --redirect=none always.",
            value=float(redirect.redirects),
        )
        yield GaugeMetricFamily(
            "aadpodidentity_nmi_fail_closed",
            "1 while no pod could reach the real IMDS if NMI stopped (--fail-closed).",
            value=float(redirect.closed),
        )
