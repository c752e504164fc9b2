"""Memory and start time of NMI on a node: as in a pod, if the machine permits it."""

import statistics
import time
from contextlib import nullcontext
from typing import Final

from benchmarks.load import requests
from benchmarks.load.addresses import FIRST_POD
from benchmarks.load.benchmark_node import GENERATOR_CORE
from benchmarks.load.cpu_limit import CpuLimit, limited
from benchmarks.load.generator import Group, run
from benchmarks.load.mounted import possible
from benchmarks.load.node import node
from benchmarks.load.node_servers import NodeServers, node_servers
from benchmarks.results import Memory, Start

LOAD_SECONDS: Final = 3.0
CONNECTIONS: Final = 256
STARTS: Final = 5
SETTLE_SECONDS: Final = 2.0
"""For the work that the load leaves behind."""
IDLE_SECONDS: Final = 5.0


def weighed(pods: int) -> Memory:
    """Measure the memory of a new NMI on a node of *pods*: one response for each pod, then load of all pods.

    Then measure its CPU time without requests.
    """
    with node_servers() as around:
        addresses = around.add_pods(pods)
        with node(around, mounted=possible()) as ours:
            ours.warm(addresses)
            idle = ours.rss_mib()
            group = Group("all", min(CONNECTIONS, 2 * pods), FIRST_POD, pods, (requests.plain(),))
            run(ours.address, ours.port, [group], LOAD_SECONDS, core=GENERATOR_CORE)
            peak = ours.peak_rss_mib()
            time.sleep(SETTLE_SECONDS)
            return Memory(pods, idle, peak, ours.used_percent(IDLE_SECONDS))


def started(pods: int, *, cores: float | None = None, kubeconfig: bool = False, times: int = STARTS) -> Start:
    """Return the medians of several starts on a node of *pods*, with *cores* as the limit of CPU time.

    *kubeconfig*: NMI reads one, also if the machine permits a start as in a pod.

    Raises OSError for a limit without the permission to create cgroups.
    """
    mounted = possible() and not kubeconfig
    with node_servers() as around, limited(cores) if cores is not None else nullcontext() as limit:
        around.add_pods(pods)
        starts = [_started(around, mounted, limit) for _ in range(times)]
    return Start(
        cores=cores,
        seconds=statistics.median(start.seconds for start in starts),
        cpu_seconds=statistics.median(start.cpu_seconds for start in starts),
        kubeconfig=kubeconfig,
    )


def _started(around: NodeServers, mounted: bool, limit: CpuLimit | None) -> Start:
    began = time.monotonic()
    with node(around, mounted=mounted, limit=limit) as ours:
        return Start(None, time.monotonic() - began, ours.cpu_seconds())
