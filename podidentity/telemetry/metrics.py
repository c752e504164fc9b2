"""Registry of `/metrics`, counters under the Go implementation's exact names, and the text format.

`prometheus_client` appends `_total` to every counter, in the samples and in the format's TYPE lines. Dashboards of the
Go implementation use names like `aadpodidentity_imds_operations_errors_count`. Therefore `MetricCounter` and `expose`
are here; gauges and histograms are the package's. Each metric is declared in the module that updates it, in a registry
that is passed to it.
"""

import platform
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from podidentity.version import VERSION

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

PREFIX: Final = "aadpodidentity_"

SERIES_MAX: Final = 1000
"""Maximum number of label sets of one counter. Values come from closed sets; this limit catches mistakes."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def new_registry() -> CollectorRegistry:
    """Return a registry with the metrics of the process and the build, for one program."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    build = Gauge(PREFIX + "build_info", "The running version; always 1", ["version", "python"], registry=registry)
    build.labels(VERSION, platform.python_version()).set(1)
    return registry


class Child:
    """One series of a counter. Bind it once and store it with the counted object."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add *amount*, which must not be negative."""
        if amount < 0:
            raise ValueError("a counter never decreases")
        self.value += amount


class MetricCounter(Collector):
    """A counter exposed under exactly *name*. For use in the event loop's thread only; without labels it starts
    at 0.
    """

    def __init__(
        self, name: str, documentation: str, labelnames: Sequence[str] = (), *, registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labelnames = tuple(labelnames)
        self._children: dict[tuple[str, ...], Child] = {}
        if not self._labelnames:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Child:
        """Return the series with these label values, in the order of the names. Values must come from a closed set."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labelnames):
                raise ValueError(f"{self._name} has the labels {self._labelnames}")
            if len(self._children) >= SERIES_MAX:
                raise ValueError(
                    f"{self._name} has more than {SERIES_MAX} series: its label values are not a closed set"
                )
            child = self._children[values] = Child()
        return child

    def inc(self, amount: float = 1.0) -> None:
        """Add to the only series of a counter without labels."""
        self.labels().inc(amount)

    @override
    def collect(self) -> Iterable[Metric]:
        """Return the metric for the registry."""
        metric = Metric(self._name, self._documentation, "counter")
        for values, child in self._children.items():
            metric.add_sample(self._name, dict(zip(self._labelnames, values, strict=True)), child.value)
        yield metric

    def describe(self) -> Iterable[Metric]:
        """Return the names for the registry's check of duplicates."""
        yield Metric(self._name, self._documentation, "counter")


def expose(registry: CollectorRegistry) -> bytes:
    """Return the registry in Prometheus's text format 0.0.4, without `_created` series, which that format does not
    have.
    """
    lines: list[str] = []
    for metric in registry.collect():
        samples = [sample for sample in metric.samples if sample.name != metric.name + "_created"]
        if not samples:
            continue
        name, kind = metric.name, metric.type
        if kind == "counter" and samples[0].name != name:
            name += "_total"
        elif kind == "info":
            name, kind = name + "_info", "gauge"
        documentation = metric.documentation.replace("\\", "\\\\").replace("\n", "\\n")
        lines.append(f"# HELP {name} {documentation}\n# TYPE {name} {'untyped' if kind == 'unknown' else kind}\n")
        for sample in samples:
            labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels.items())
            lines.append(f"{sample.name}{{{labels}}} " if labels else f"{sample.name} ")
            lines.append(f"{floatToGoString(sample.value)}\n")  # type: ignore[no-untyped-call]  # has no annotations
    return "".join(lines).encode(errors="replace")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
