"""How late the event loop is: a program that is busy with one thing answers nothing else."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

INTERVAL_SECONDS: Final = 0.05
"""Between two measurements. A stall is seen without that part of it that fell into the pause: up to so much less."""
BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class LoopLag:
    """Registers itself with *registry*. *prefix* begins its metrics' names."""

    def __init__(
        self,
        registry: CollectorRegistry,
        prefix: str,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """*clock* is the running loop's if None."""
        self._prefix = prefix
        self._interval = interval_seconds
        self._clock = clock
        self._longest = 0.0
        self._lags = Histogram(
            f"{prefix}event_loop_lag_seconds",
            "How late a timer of the event loop was, measured twenty times a second.",
            registry=registry,
            buckets=BUCKETS,
        )
        registry.register(self)

    async def run(self) -> NoReturn:
        """Measure until cancelled."""
        clock = self._clock or asyncio.get_running_loop().time
        while True:
            due = clock() + self._interval
            await asyncio.sleep(self._interval)
            lag = max(0.0, clock() - due)
            self._lags.observe(lag)
            self._longest = max(self._longest, lag)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape, with which the longest lag begins again."""
        longest, self._longest = self._longest, 0.0
        yield GaugeMetricFamily(
            f"{self._prefix}event_loop_lag_longest_seconds",
            "The longest lag of the event loop since the last scrape.",
            value=longest,
        )
