"""Event loop lag: while one callback runs, all other work waits."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

INTERVAL_SECONDS: Final = 0.25
"""Time between two measurements. A stall is measured without the part of it in this pause. Each measurement wakes an
idle program, so this interval determines the CPU time of a NMI without requests: ten a second used 0.26 % of a core
on a machine without other work, where a wake-up costs most.
"""
BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class LoopLag:
    """Collector that registers itself with *registry*. *prefix* is the prefix of its metric names."""

    def __init__(
        self,
        registry: CollectorRegistry,
        prefix: str,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """*clock* defaults to the running loop's."""
        self._prefix = prefix
        self._interval = interval_seconds
        self._clock = clock
        self._longest = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._lags = Histogram(
            f"{prefix}event_loop_lag_seconds",
            "How late a timer of the event loop was, measured four times a second.",
            registry=registry,
            buckets=BUCKETS,
        )
        registry.register(self)

    async def run(self) -> NoReturn:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        self._start_timer(loop)
        try:
            while True:
                await loop.create_future()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the next measurement. A sleeping task instead of a timer would run two callbacks."""
        self._due = (self._clock or loop.time)() + self._interval
        self._timer = loop.call_later(self._interval, self._measure, loop)

    def _measure(self, loop: asyncio.AbstractEventLoop) -> None:
        lag = max(0.0, (self._clock or loop.time)() - self._due)
        self._lags.observe(lag)
        self._longest = max(self._longest, lag)
        self._start_timer(loop)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics at each scrape, and reset the maximum lag."""
        longest, self._longest = self._longest, 0.0
        yield GaugeMetricFamily(
            f"{self._prefix}event_loop_lag_longest_seconds",
            "The longest lag of the event loop since the last scrape.",
            value=longest,
        )
