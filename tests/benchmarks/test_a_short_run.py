"""A short run of every part of the suite on real servers: each has results, and no request fails."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import cases, closed_loop, cpu_limit, disturbances, open_loop, requests
from benchmarks.load.benchmark_node import BenchmarkNode, on_loopback
from benchmarks.load.closed_loop import Pace
from benchmarks.load.footprint import started, weighed
from benchmarks.load.held import held_bytes
from benchmarks.load.mounted import possible
from benchmarks.load.node import node
from benchmarks.load.node_servers import node_servers
from benchmarks.machine import Cores
from podidentity.kube.access import SERVICE_ACCOUNT_ROOT

pytestmark = pytest.mark.tools

SHORT = Pace(rounds=1, seconds=0.4, deadline=time.monotonic(), quick=True)
"""Its deadline is over: no waiting for a quiet machine."""


@pytest.fixture(scope="module")
def benchmark_node() -> Iterator[BenchmarkNode]:
    with on_loopback(cases.BACKGROUND_PODS + 1, cases.ALL) as made:
        yield made


@pytest.mark.parametrize("load", cases.ON_A_FULL_NODE, ids=lambda load: load.key)
def test_a_closed_loop_measures_each_server(benchmark_node: BenchmarkNode, load: cases.Load) -> None:
    found = closed_loop.measured(load, benchmark_node, Cores(), SHORT)
    assert set(found.servers) == set(load.servers)
    for name, served in found.servers.items():
        assert served.errors == {}
        assert set(served.statuses) == {load.status if name == "nmi" else 200}
        assert (served.against is None) == (name == "nginx")


def test_the_control_measures_nmi_twice(benchmark_node: BenchmarkNode) -> None:
    found = closed_loop.control(benchmark_node, Cores(), SHORT)
    assert found.ratios.rps.median > 0


def test_sizes_of_the_index_are_measured_in_the_same_rounds(benchmark_node: BenchmarkNode) -> None:
    with on_loopback(1, cases.PAIR) as few:
        found = closed_loop.side_by_side(((cases.ONE_POD, few), (cases.MANY_PODS, benchmark_node)), Cores(), SHORT)
    assert [(case.key, case.pods) for case in found] == [("pods-1", 1), ("pods-10000", cases.BACKGROUND_PODS + 1)]
    few_servers, many_servers = (case.servers for case in found)
    assert few_servers["nginx"] == many_servers["nginx"]
    assert few_servers["nmi"] != many_servers["nmi"]
    assert all(not each.errors for case in found for each in case.servers.values())


def test_an_open_loop_is_on_time(benchmark_node: BenchmarkNode) -> None:
    (row,) = open_loop.at_rates([500], benchmark_node, 0.4)
    assert set(row.servers) == set(cases.PAIR)
    assert all(each.errors == 0 and each.p50_us > 0 for each in row.servers.values())


@pytest.mark.parametrize("what", cases.BACKGROUND, ids=lambda what: what.key)
def test_the_fast_lane_answers_during_every_disturbance(benchmark_node: BenchmarkNode, what: cases.Disturbance) -> None:
    hits, *own = disturbances.measured(what, benchmark_node, 1.5)
    assert hits.errors == 0
    assert hits.requests == pytest.approx(1.5 * cases.BACKGROUND_RATE, rel=0.02)
    assert [row.title for row in own] == ([what.own] if what.own else [])
    expected = 7 if what is cases.PASSED_ON else 15
    assert all(row.errors == 0 and row.requests == pytest.approx(expected, abs=3) for row in own)
    if what in {cases.MISSES, cases.RENEWALS}:
        assert own[0].p50_us > 1_000 * disturbances.IMDS_DELAY_MS, "an answer without a call to IMDS"


def test_the_memory_of_a_node_is_measured() -> None:
    found = weighed(3)
    assert 20 < found.idle_mib <= found.load_mib + 1 < 120
    assert found.idle_percent is not None
    assert 0 < found.idle_percent < 5


def test_the_memory_of_held_requests_is_measured() -> None:
    assert 1_000 < held_bytes(pods=100, warm=20) < 50_000


@pytest.mark.parametrize("kubeconfig", [False, True])
def test_the_start_time_is_measured(kubeconfig: bool) -> None:
    found = started(3, times=2, kubeconfig=kubeconfig)
    assert found.kubeconfig == kubeconfig
    assert 0.1 < found.seconds < 30
    assert 0.1 < found.cpu_seconds < 10


def test_the_clients_of_held_requests_are_not_answered() -> None:
    with node_servers() as around, node(around) as ours:
        (pod,) = around.add_pods(1, assigned=False)
        with socket.create_connection((ours.address, ours.port), source_address=(pod, 0)) as client:
            client.sendall(requests.plain().text)
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
            assert ours.held() == 1


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
