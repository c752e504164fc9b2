"""Metrics of a program's watches."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from podidentity.telemetry.metrics import expose
from podidentity.telemetry.watches import WatchMetrics


@dataclass
class Still:
    """A watch with this staleness and number of interruptions."""

    silent_seconds: float
    restarts: int

    def staleness_seconds(self) -> float:
        return self.silent_seconds


def test_each_watch_shows_its_silence_and_its_restarts_under_its_name() -> None:
    registry = CollectorRegistry()
    measures = WatchMetrics(registry, "aadpodidentity_mic_")
    assert "watch=" not in expose(registry).decode()
    measures.watch({"pods": Still(12.5, 3), "nodes": Still(0.0, 0)})
    lines = expose(registry).decode().splitlines()
    assert 'aadpodidentity_mic_watch_staleness_seconds{watch="pods"} 12.5' in lines
    assert 'aadpodidentity_mic_watch_restarts_total{watch="pods"} 3.0' in lines
    assert 'aadpodidentity_mic_watch_staleness_seconds{watch="nodes"} 0.0' in lines
