"""A stalled event loop shows in the metrics: in the histogram, and as the longest lag until the next scrape."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from podidentity.telemetry.loop_lag import LoopLag
from podidentity.telemetry.metrics import expose

LONGEST = "aadpodidentity_x_event_loop_lag_longest_seconds"


def samples(registry: CollectorRegistry) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in expose(registry).decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def test_each_stall_is_counted_once_and_is_the_longest_until_the_next_scrape() -> None:
    registry, loop, stalled = CollectorRegistry(), asyncio.get_running_loop(), 0.0
    lag = LoopLag(registry, "aadpodidentity_x_", interval_seconds=0.005, clock=lambda: loop.time() + stalled)
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(0.012)
    stalled += 0.12
    await asyncio.sleep(0.012)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    seen = samples(registry)
    name = "aadpodidentity_x_event_loop_lag_seconds"
    assert seen[f'{name}_bucket{{le="+Inf"}}'] - seen[f'{name}_bucket{{le="0.1"}}'] == 1
    assert seen[LONGEST] == pytest.approx(0.12)
    assert samples(registry)[LONGEST] == 0
