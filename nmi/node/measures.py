"""What the node room counts, read by a collector at each scrape."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nmi.node.plumbing import Plumbing


class NodeMeasures:
    """Registers itself with *registry*, which keeps it."""

    def __init__(self, registry: CollectorRegistry, plumbing: Plumbing) -> None:
        self._plumbing = plumbing
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        yield CounterMetricFamily(
            "aadpodidentity_nmi_iptables_repairs",
            "How often the redirect was found changed and was put back.",
            value=self._plumbing.repairs,
        )
        yield GaugeMetricFamily(
            "aadpodidentity_nmi_redirect_in_force",
            "1 while pods are led to NMI, or nobody asked for it (--redirect=none).",
            value=float(self._plumbing.problem() is None),
        )
