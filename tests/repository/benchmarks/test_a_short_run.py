"""A short run of every part of the suite on real servers: each case gets the responses that it describes."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import cases, closed_loop, cpu_limit, requests
from benchmarks.load.benchmark_node import BenchmarkNode, on_loopback
from benchmarks.load.closed_loop import Pace
from benchmarks.load.footprint import started
from benchmarks.load.mounted import possible
from benchmarks.load.node import node
from benchmarks.load.node_servers import node_servers
from benchmarks.machine import Cores
from podidentity.kube.access import SERVICE_ACCOUNT_ROOT
from tests.support.waiting import until_sync

pytestmark = pytest.mark.tools

SHORT = Pace(rounds=1, seconds=0.4, deadline=time.monotonic(), quick=True)
"""Its deadline is over: no waiting for a quiet machine."""


@pytest.fixture(scope="module")
def benchmark_node() -> Iterator[BenchmarkNode]:
    with on_loopback(cases.BACKGROUND_PODS + 1, cases.ALL) as made:
        yield made


@pytest.mark.parametrize("load", cases.ON_A_FULL_NODE, ids=lambda load: load.key)
def test_a_closed_loop_measures_each_server(benchmark_node: BenchmarkNode, load: cases.Load) -> None:
    # On a busy machine a server may answer nothing in so short a time, which is no result.
    found = until_sync(lambda: closed_loop.measured(load, benchmark_node, Cores(), SHORT), ignoring=RuntimeError)
    assert set(found.servers) == set(load.servers)
    for name, served in found.servers.items():
        assert set(served.errors) <= {"unanswered"}  # at the end, on a busy machine
        assert set(served.statuses) == {load.status if name == "nmi" else 200}
        assert (served.against is None) == (name == "nginx")


def test_the_clients_of_held_requests_are_not_answered() -> None:
    with node_servers() as around, node(around) as ours:
        (pod,) = around.add_pods(1, assigned=False)
        with socket.create_connection((ours.address, ours.port), source_address=(pod, 0)) as client:
            client.sendall(requests.plain().text)
            until_sync(lambda: ours.held() == 1)
            with pytest.raises(BlockingIOError):
                client.recv(1, socket.MSG_DONTWAIT)


@pytest.mark.root
def test_a_limit_of_cpu_time_delays_the_start() -> None:
    if not cpu_limit.possible():  # in a container whose cgroups are read-only
        with pytest.raises(OSError, match="cgroup"):
            started(3, cores=0.1, times=1)
        return
    found = started(3, cores=0.1, times=1)
    assert found.cores == 0.1
    assert found.seconds > 3 * found.cpu_seconds
    assert not list(cpu_limit.ROOT.glob(f"**/nmi-benchmark-{os.getpid()}"))


@pytest.mark.root
def test_no_kubeconfig_is_read_as_in_a_pod() -> None:
    assert possible()
    with node_servers() as around, node(around, mounted=True) as ours:
        (pod,) = around.add_pods(1)
        ours.warm([pod])
        (process,) = ours.pids
        assert "kubeconfig" not in Path(f"/proc/{process}/cmdline").read_text()
        assert not (SERVICE_ACCOUNT_ROOT / "token").exists(), "seen by more than the program"
