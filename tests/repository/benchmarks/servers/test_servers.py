"""The servers of the measurements: equal responses to equal requests, and the commands of a run have an effect.

One node and one NMI serve all tests that only send requests. Neither is pinned to a core.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load.nginx import nginx
from benchmarks.load.node import Node, node
from benchmarks.load.node_servers import NodeServers, node_servers
from benchmarks.load.peers.starting import on_aiohttp, plain
from benchmarks.load.servers import METADATA, TOKEN_PATH, Listening, ask, check, running, wait_until
from benchmarks.load.wire import FIRST_POD, TIME_WAIT, led_to, wire
from podidentity_sandbox.processes import ProgramError
from tests.support.waiting import until_sync

PODS = 12
POD = "127.1.0.7"
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
    return nmi.answer(around.pods[0])


@pytest.fixture(scope="module")
def peers(answer: bytes) -> Iterator[list[Listening]]:
    with plain(answer, pods=PODS, core=None) as one, on_aiohttp(answer, pods=PODS, core=None) as other:
        yield [one, other]


def test_nmi_answers_with_a_token_of_real_length(nmi: Node, answer: bytes) -> None:
    check(nmi, answer, source=POD)
    assert 1650 < len(answer) < 1850
    assert abs(len(json.loads(answer)["access_token"]) - 1500) < 5


def test_nginx_returns_nmis_answer_byte_for_byte_and_never_closes(answer: bytes) -> None:
    with nginx(answer, core=None) as server:
        check(server, answer)
        given = ask(server.address, server.port, source=POD, headers=METADATA | {"Connection": "keep-alive"})
    assert (given.status, given.body) == (200, answer)
    assert given.headers["Content-Type"] == "application/json"
    assert given.headers["Connection"] == "keep-alive"


def test_the_peers_return_the_remaining_lifetime_of_the_token(peers: list[Listening], answer: bytes) -> None:
    for server in peers:
        check(server, answer, source=POD)
        before = time.time()
        given = json.loads(ask(server.address, server.port, source=POD).body)
        assert before - 1 <= int(given["expires_on"]) - int(given["expires_in"]) <= time.time() + 1
        assert given["access_token"] == json.loads(answer)["access_token"]


@pytest.mark.parametrize(
    ("status", "path", "source", "headers"),
    [
        (400, TOKEN_PATH, POD, {}),
        (400, TOKEN_PATH.partition("&")[0], POD, METADATA),
        (404, TOKEN_PATH, "127.1.1.1", METADATA),
        (404, TOKEN_PATH + "&client_id=foreign", POD, METADATA),
        (503, TOKEN_PATH + "%2Fnever-fetched", POD, METADATA),
        (404, "/elsewhere", POD, METADATA),
        (200, TOKEN_PATH, POD, METADATA),
    ],
)
def test_the_peers_look_up_the_request_before_they_answer(
    peers: list[Listening], status: int, path: str, source: str, headers: dict[str, str]
) -> None:
    for server in peers:
        assert ask(server.address, server.port, path, source=source, headers=headers).status == status, server.name


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


def test_a_server_without_a_token_is_rejected(peers: list[Listening], answer: bytes) -> None:
    with pytest.raises(ProgramError, match="answers 404"):
        check(peers[0], answer, source="127.1.1.1")


def test_a_warm_node_answers_every_pod_from_the_fast_lane(around: NodeServers, nmi: Node) -> None:
    calls = around.counts().imds_calls
    nmi.warm(around.pods)
    assert around.counts().imds_calls - calls <= 3, "pods of one identity share its token"
    before = nmi.lane()
    for pod in around.pods:
        assert ask(nmi.address, nmi.port, source=pod).status == 200
    after = nmi.lane()
    assert after["fast_answers"] - before["fast_answers"] == len(around.pods)
    assert after["handed_over"] == before["handed_over"]


def test_a_refused_pod_cannot_be_warmed_up(nmi: Node) -> None:
    with pytest.raises(ProgramError, match=r"refuses 1 of the pods: 127\.1\.9\.9 404"):
        nmi.warm(["127.1.9.9"])


def test_a_relist_makes_nmi_list_all_pods_again_while_it_serves(around: NodeServers, nmi: Node) -> None:
    until_sync(lambda: around.counts().watches == 3)
    before = around.counts().lists
    around.relist()
    until_sync(lambda: around.counts().lists > before and around.counts().watches == 3)
    assert nmi.answer(around.pods[-1])


def test_a_churn_reaches_nmi_as_events(around: NodeServers, nmi: Node) -> None:
    until_sync(lambda: around.counts().watches == 3)
    before = around.counts().events
    around.churn(100, seconds=2.0)
    until_sync(lambda: not around.counts().churning)
    assert around.counts().events - before == 200
    assert nmi.answer(around.pods[0]), "the change concerns no identity"


def test_imds_responds_after_the_configured_delay(around: NodeServers, nmi: Node) -> None:
    pod, calls = around.pods[0], around.counts().imds_calls
    around.set_imds(delay_ms=300)
    began = time.monotonic()
    nmi.answer(pod, FORCE_REFRESH)
    assert time.monotonic() - began >= 0.3
    assert around.counts().imds_calls == calls + 1
    around.set_imds()
    nmi.answer(pod)
    assert around.counts().imds_calls == calls + 1, "a cached token causes no call to IMDS"


def test_tokens_have_the_configured_lifetime(around: NodeServers, nmi: Node) -> None:
    around.set_imds(token_seconds=900)
    short = int(json.loads(nmi.answer(around.pods[1], FORCE_REFRESH))["expires_in"])
    around.set_imds()
    long = int(json.loads(nmi.answer(around.pods[1], FORCE_REFRESH))["expires_in"])
    assert short <= 900
    assert long > 86_000


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
            answer = nmi.answer(pods[-1])
            state = nmi.side.call(lambda: ask("127.0.0.1", nmi.probe_port, "/debug/state"))
            assert json.loads(state.body)["plumbing"]["in_force"]
            assert wired.node.call(TIME_WAIT.read_text).strip() == "5"
        with wire(4) as other, nginx(answer, core=None, side=other.node) as server:
            led = led_to(server, other)
            check(led, answer, source=pods[-1])
            assert (led.address, led.port, led.pids) == ("169.254.169.254", 80, server.pids)
            assert other.node.call(TIME_WAIT.read_text).strip() == "5"


def test_a_program_is_pinned_to_its_core_from_the_start(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    code = "import os, time; print(os.sched_getaffinity(0), flush=True); time.sleep(60)"
    log = tmp_path / "log"
    with running("it", [sys.executable, "-c", code], log=log, core=core) as process:
        wait_until(lambda: "}" in log.read_text(), process, "it", log)
        assert log.read_text().strip() == f"{{{core}}}"
    assert process.returncode == -signal.SIGTERM
