"""docs/metrics.md lists the metrics of the real programs: names, types, and all values of labels."""

import asyncio
import os
from collections.abc import Callable
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from podidentity.telemetry.metrics import expose
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from tools.handbook.metrics import OPEN, Shown, mic_registry, nmi_registry, shown

pytestmark = pytest.mark.programs

LAZY = {
    "aadpodidentity_nmi_operations_duration_seconds",
    "aadpodidentity_nmi_application_credential_tokens_total",
}
"""These metrics have series only after requests."""


def scraped(port: int) -> dict[str, Shown]:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return {metric.name: metric for metric in shown(response.read().decode())}


def running_programs(programs: dict[str, Shown], registry: Callable[[], CollectorRegistry]) -> None:
    documented = {metric.name: metric for metric in shown(expose(registry()).decode())}
    assert documented.keys() - LAZY <= programs.keys() <= documented.keys()
    for name, metric in programs.items():
        expected = documented[name]
        assert (metric.kind, metric.help) == (expected.kind, expected.help)
        for label, values in metric.labels.items():
            assert label in OPEN or values <= expected.labels[label], name


async def test_names_types_and_labels_are_those_of_the_running_programs() -> None:
    async with Sandbox(SandboxSettings(namespaces=False, environment=os.environ)) as sandbox:
        (node,) = sandbox.nmis.values()
        nmis = await asyncio.to_thread(scraped, node.metrics_port)
        mics = await asyncio.to_thread(scraped, sandbox.mic_ports.metrics)
    await asyncio.to_thread(running_programs, nmis, nmi_registry)
    await asyncio.to_thread(running_programs, mics, mic_registry)
