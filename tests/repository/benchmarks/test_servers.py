"""The servers of the measurements, and a short run on them: equal responses to equal requests, the commands of a run
have an effect, and each case gets the responses that it describes.

One node and one NMI serve all tests that only send requests. Neither is pinned to a core.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import cases, cpu_limit, loops
from benchmarks.load.benchmark_node import BenchmarkNode, on_loopback
from benchmarks.load.footprint import started
from benchmarks.load.loops import Pace
from benchmarks.load.mounted import possible
from benchmarks.load.nginx import nginx
from benchmarks.load.node import Node, node
from benchmarks.load.node_servers import NodeServers, node_servers
from benchmarks.load.servers import TOKEN_PATH, check, get
from benchmarks.load.wire import FIRST_POD, TIME_WAIT, led_to, wire
from benchmarks.machine import Cores
from podidentity.kube.access import SERVICE_ACCOUNT_ROOT
from podidentity_sandbox.processes import ProgramError
from tests.support.waiting import until_sync

pytestmark = pytest.mark.tools

PODS = 12
SHORT = Pace(rounds=1, seconds=0.4, deadline=time.monotonic(), quick=True)
"""Its deadline is over: no waiting for a quiet machine."""
FORCE_REFRESH = TOKEN_PATH + "&bypass_cache=true"


@pytest.fixture(scope="module")
def around() -> Iterator[NodeServers]:
    with node_servers(identities=3, core=None) as made:
        made.add_pods(PODS)
        yield made


@pytest.fixture(scope="module")
def nmi(around: NodeServers) -> Iterator[Node]:
    with node(around, core=None) as made:
        yield made


@pytest.fixture(scope="module")
def answer(around: NodeServers, nmi: Node) -> bytes:
    return nmi.token_response(around.pods[0])


def test_nmi_answers_with_a_token_of_real_length(answer: bytes) -> None:
    assert 1650 < len(answer) < 1850
    assert abs(len(json.loads(answer)["access_token"]) - 1500) < 5


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [({"client_id": None}, "answers with the fields"), ({"access_token": "short"}, "NMI with")],
    ids=["other fields", "a shorter token"],
)
def test_a_server_with_another_response_is_rejected(
    answer: bytes, changed: dict[str, str | None], complaint: str
) -> None:
    document = {name: value for name, value in (json.loads(answer) | changed).items() if value is not None}
    body = json.dumps(document, separators=(",", ":")).encode()
    with nginx(body, core=None) as server, pytest.raises(ProgramError, match=complaint):
        check(server, answer)


def test_a_server_or_node_without_a_token_for_the_pod_is_rejected(nmi: Node, answer: bytes) -> None:
    with pytest.raises(ProgramError, match="answers 404"):
        check(nmi, answer, source="127.1.1.1")
    with pytest.raises(ProgramError, match=r"refuses 1 of the pods: 127\.1\.9\.9 404"):
        nmi.warm(["127.1.9.9"])


def test_a_warm_node_answers_every_pod_from_the_fast_lane(around: NodeServers, nmi: Node) -> None:
    calls = around.counts().imds_calls
    nmi.warm(around.pods)
    assert around.counts().imds_calls - calls <= 3, "pods of one identity share its token"
    before = nmi.lane()
    for pod in around.pods:
        assert get(nmi.address, nmi.port, source=pod).status == 200
    after = nmi.lane()
    assert after["fast_answers"] - before["fast_answers"] == len(around.pods)
    assert after["handed_over"] == before["handed_over"]


def test_a_relist_and_a_churn_reach_nmi_while_it_serves(around: NodeServers, nmi: Node) -> None:
    until_sync(lambda: around.counts().watches == 3)
    before = around.counts()
    around.relist()
    until_sync(lambda: around.counts().lists > before.lists and around.counts().watches == 3)
    assert nmi.token_response(around.pods[-1])
    before = around.counts()
    around.churn(100, seconds=2.0)
    until_sync(lambda: not around.counts().churning)
    assert around.counts().events - before.events == 200
    assert nmi.token_response(around.pods[0]), "the change concerns no identity"


def test_imds_responds_after_the_configured_delay_with_tokens_of_the_configured_lifetime(
    around: NodeServers, nmi: Node
) -> None:
    pod, calls = around.pods[0], around.counts().imds_calls
    around.set_imds(delay_ms=300, token_seconds=900)
    began = time.monotonic()
    response = nmi.token_response(pod, FORCE_REFRESH)
    assert time.monotonic() - began >= 0.3
    assert int(json.loads(response)["expires_in"]) <= 900
    assert around.counts().imds_calls == calls + 1
    around.set_imds()
    assert int(json.loads(nmi.token_response(pod, FORCE_REFRESH))["expires_in"]) > 86_000
    nmi.token_response(pod)
    assert around.counts().imds_calls == calls + 2, "a cached token causes no call to IMDS"


@pytest.mark.root
def test_pods_reach_nmi_by_its_rule_and_nginx_by_an_equal_one() -> None:
    with (
        wire(4) as wired,
        node_servers(identities=2, core=None, side=wired.node, first_pod=FIRST_POD, imds=wired.imds) as w,
    ):
        pods = w.add_pods(4)
        with node(w, core=None, behind=wired) as nmi:
            assert (nmi.address, nmi.port) == ("169.254.169.254", 80)
            nmi.warm(pods)
            response = nmi.token_response(pods[-1])
            state = nmi.side.call(lambda: get("127.0.0.1", nmi.probe_port, "/debug/state"))
            assert json.loads(state.body)["plumbing"]["in_force"]
            assert wired.node.call(TIME_WAIT.read_text).strip() == "5"
        with wire(4) as other_wire, nginx(response, core=None, side=other_wire.node) as server:
            led = led_to(server, other_wire)
            check(led, response, source=pods[-1])
            assert (led.address, led.port, led.pids) == ("169.254.169.254", 80, server.pids)
            assert other_wire.node.call(TIME_WAIT.read_text).strip() == "5"


@pytest.fixture(scope="module")
def benchmark_node() -> Iterator[BenchmarkNode]:
    with on_loopback(cases.BACKGROUND_PODS + 1) as made:
        yield made


@pytest.mark.parametrize("load", cases.ON_A_FULL_NODE, ids=lambda load: load.key)
def test_a_closed_loop_measures_each_server(benchmark_node: BenchmarkNode, load: cases.Load) -> None:
    # On a busy machine a server may answer nothing in so short a time, which is no result.
    measured = until_sync(lambda: loops.measured(load, benchmark_node, Cores(), SHORT), ignoring=RuntimeError)
    assert set(measured.servers) == {"nmi", "nginx"}
    for name, served in measured.servers.items():
        assert set(served.errors) <= {"unanswered"}  # at the end, on a busy machine
        assert set(served.statuses) == {load.status if name == "nmi" else 200}
        assert (served.against is None) == (name == "nginx")
        pids = benchmark_node.servers[name].pids
        assert {core for pid in pids for core in os.sched_getaffinity(pid)} == {0}, "not the generator's core"


@pytest.mark.root
def test_a_limit_of_cpu_time_delays_the_start() -> None:
    if not cpu_limit.possible():  # in a container whose cgroups are read-only
        with pytest.raises(OSError, match="cgroup"):
            started(3, cores=0.1, times=1)
        return
    start = started(3, cores=0.1, times=1)
    assert start.cores == 0.1
    assert start.seconds > 3 * start.cpu_seconds
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
