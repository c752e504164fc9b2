"""Memory and start time of NMI on a node: as in a pod, if the machine permits it."""

import statistics
import time
from typing import Final

from benchmarks.load import requests
from benchmarks.load.addresses import FIRST_POD
from benchmarks.load.benchmark_node import GENERATOR_CORE
from benchmarks.load.generator import Group, run
from benchmarks.load.mounted import possible
from benchmarks.load.node import node
from benchmarks.load.node_servers import NodeServers, node_servers
from benchmarks.results import Memory

LOAD_SECONDS: Final = 3.0
CONNECTIONS: Final = 256
STARTS: Final = 5


def weighed(pods: int) -> Memory:
    """Measure the memory of a new NMI on a node of *pods*: one response for each pod, then load of all pods."""
    with node_servers() as around:
        addresses = around.add_pods(pods)
        with node(around, mounted=possible()) as ours:
            ours.warm(addresses)
            idle = ours.rss_mib()
            group = Group("all", min(CONNECTIONS, 2 * pods), FIRST_POD, pods, (requests.plain(),))
            run(ours.address, ours.port, [group], LOAD_SECONDS, core=GENERATOR_CORE)
            return Memory(pods, idle, ours.peak_rss_mib())


def start_seconds(pods: int, times: int = STARTS) -> float:
    """Return the seconds from start to Active on a node of *pods*: the median of several starts."""
    mounted = possible()
    with node_servers() as around:
        around.add_pods(pods)
        return statistics.median(_start_seconds(around, mounted) for _ in range(times))


def _start_seconds(around: NodeServers, mounted: bool) -> float:
    began = time.monotonic()
    with node(around, mounted=mounted):
        return time.monotonic() - began
