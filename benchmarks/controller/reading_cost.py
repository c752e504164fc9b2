"""Sends a large cluster's bytes through MIC's informers and view, and prints the cost. Run it as a program, since
memory is measured per process:

    python -m benchmarks.controller.reading_cost PODS NODES BINDINGS

prints one JSON line. Not included: HTTP and TLS to the API server and to Azure, and reconcile passes.
"""

import asyncio
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from typing_extensions import override

from benchmarks.controller import stream
from benchmarks.controller.stream import Size
from mic.cluster.kept_parts import ObjectReducer
from mic.cluster.view import ClusterView
from mic.startup.first_read import few_full_collections
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.decoding import RawPage, split_list
from podidentity.kube.informer import Informer
from podidentity.kube.lists import PAGE_SIZE
from podidentity.paced import paced
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, NODES, PODS, SCHEDULED_PODS, Kind

EVENTS: Final = 2000
"""The number of events of each kind for the cost of one."""


@dataclass(frozen=True, slots=True)
class ReadingCost:
    """The cost for one size."""

    pods: int
    nodes: int
    bindings: int
    sync_cpu_seconds: float
    """Reading everything once: all lists decoded and in the view."""
    rss_mib: float
    """Memory of the process at the end, with the interpreter and all modules."""
    unrelated_event_us: float
    """A pod's heartbeat: only its resourceVersion changes."""
    new_pod_us: float
    """A new pod with an identity; the median, as for the others."""
    own_write_us: float
    """The watch reports an object that MIC itself has written."""


class Recorded(Client):
    """Replacement of an API server: lists in pages, and watches that send given lines."""

    def __init__(self, size: Size) -> None:
        super().__init__(ClusterAccess("http://nowhere.invalid"), user_agent="feeding")
        self._size = size
        self.making_seconds = 0.0
        """CPU time for the generation of bytes, which a real server would spend in another process."""
        self.watches: dict[str, asyncio.Queue[bytes]] = {}

    @override
    async def pages(
        self,
        kind: Kind[Any],
        namespace: str = "",
        *,
        field_selector: str = "",
        label_selector: str = "",
        page_size: int = PAGE_SIZE,
        read: Callable[[bytes], RawPage] = split_list,
    ) -> AsyncGenerator[RawPage, None]:
        bodies, first = stream.pages(kind, self._size, page_size), True
        while True:
            began = time.process_time()
            body = next(bodies, None)
            self.making_seconds += time.process_time() - began
            if body is None:
                return
            yield msgspec.structs.replace(read(body), first=first)
            first = False

    @override
    def stream(self, path: str, params: Mapping[str, str]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._open(path.rpartition("/")[2])

    @asynccontextmanager
    async def _open(self, plural: str) -> AsyncIterator[AsyncIterator[bytes]]:
        lines = self.watches[plural] = asyncio.Queue()

        async def follow() -> AsyncIterator[bytes]:
            while True:
                yield await lines.get()
                lines.task_done()

        yield follow()


class Mirror:
    """MIC's picture of the cluster, as `mic.app` wires it, without the rounds."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.client = Recorded(size)
        self.dirty: list[str] = []
        self.view = ClusterView(loading=True, on_dirty=self.dirty.append)
        kept = ObjectReducer()
        self.pods = Informer(self.client, SCHEDULED_PODS, self.view.pods, keep=kept.pod, hold=True)
        self.informers: list[Informer[Any]] = [
            self.pods,
            Informer(self.client, NODES, self.view.nodes, keep=kept.node),
            Informer(self.client, IDENTITIES, self.view.identities),
            Informer(self.client, BINDINGS, self.view.bindings),
            Informer(self.client, ASSIGNED_IDENTITIES, self.view.assigned, keep=kept.assigned),
        ]

    async def follow(self) -> None:
        """Run the informers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self.informers:
                tasks.create_task(informer.run())

    async def synced(self) -> float:
        """Wait until all objects have been read once. Return the CPU seconds."""
        began = time.process_time()
        for informer in self.informers:
            await informer.synced()
        await self.pods.release()
        await paced(self.view.loaded())
        while len(self.client.watches) < len(self.informers):
            await asyncio.sleep(0)
        return time.process_time() - began - self.client.making_seconds

    async def take(self, kind: Kind[Any], lines: list[bytes]) -> float:
        """Return the median microseconds per line, from its bytes to the marks in the view."""
        queue, seconds = self.client.watches[kind.plural], []
        for line in lines:
            began = time.perf_counter()
            queue.put_nowait(line)
            await queue.join()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds) * 1e6


async def feed(size: Size) -> ReadingCost:
    """Measure one size. Raises AssertionError if the view does not equal the objects in the bytes."""
    mirror = Mirror(size)
    running = asyncio.ensure_future(mirror.follow())
    try:
        return await _measured(mirror, size)
    finally:
        running.cancel()


async def _measured(mirror: Mirror, size: Size) -> ReadingCost:
    with few_full_collections():
        cpu = await mirror.synced()
    after = _rss_mib()
    assert not any(place.has_work for place in mirror.view.host_states()), "work although all is assigned"
    mirror.dirty.clear()
    assert sum(len(informer.store) for informer in mirror.informers) == sum(size.counts().values())
    step = max(1, size.pods // EVENTS)
    some = [number * step for number in range(min(EVENTS, size.pods))]
    later = 20_000_000
    heartbeats = [stream.line("MODIFIED", stream.pod(n, size, version=later + n), PODS) for n in some]
    own = [stream.line("MODIFIED", stream.assigned(n, size, version=later + n), ASSIGNED_IDENTITIES) for n in some]
    beats = [stream.line("MODIFIED", stream.node(n % size.nodes, version=later + n), NODES) for n in range(EVENTS)]
    fresh = range(size.pods, size.pods + EVENTS)
    new = [stream.line("ADDED", stream.pod(number, size), PODS) for number in fresh]
    unrelated = await mirror.take(PODS, heartbeats)
    written = await mirror.take(ASSIGNED_IDENTITIES, own)
    await mirror.take(NODES, beats)
    assert mirror.dirty == [], "a heartbeat has caused work"
    appeared = await mirror.take(PODS, new)
    assert len(mirror.dirty) == EVENTS, "a new pod has caused no work"
    return ReadingCost(
        **asdict(size),
        sync_cpu_seconds=round(cpu, 3),
        rss_mib=round(after, 1),
        unrelated_event_us=round(unrelated, 1),
        new_pod_us=round(appeared, 1),
        own_write_us=round(written, 1),
    )


def _rss_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    size = Size(*(int(argument) for argument in sys.argv[1:4]))
    sys.stdout.write(json.dumps(asdict(uvloop.run(feed(size)))) + "\n")


if __name__ == "__main__":
    main()
