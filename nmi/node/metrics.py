"""What the node room counts, read by a collector at each scrape."""

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
        """Called by the registry at each scrape."""
        redirect = self._redirect
        for name, help_text, count in (
            (
                "aadpodidentity_nmi_iptables_repairs",
                "How often a rule of NMI's was found changed and was put back.",
                redirect.repairs,
            ),
            (
                "aadpodidentity_nmi_iptables_failures",
                "How many verifications of NMI's rules failed.",
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
            "1 while the kernel reports changes of this node's network, by which reused addresses are noticed.",
            value=float(self._network_monitor.listening),
        )
        yield CounterMetricFamily(
            "aadpodidentity_nmi_network_lists",
            "How often interfaces, routes and neighbours were listed: once at the start, and after lost reports.",
            value=self._network_monitor.dumps,
        )
        yield GaugeMetricFamily(
            "aadpodidentity_nmi_redirect_in_force",
            "1 while pods are led to NMI, or nobody asked for it (--redirect=none).",
            value=float(redirect.problem() is None),
        )
        yield GaugeMetricFamily(
            "aadpodidentity_nmi_fail_closed",
            "1 while no pod would reach the real IMDS if NMI went away (--fail-closed).",
            value=float(redirect.closed),
        )
