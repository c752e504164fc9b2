"""The emulators around NMI execute the commands of a run, with an effect on NMI."""

import json
import time

import pytest

from benchmarks.load.node import Node
from benchmarks.load.node_servers import NodeServers, node_servers
from benchmarks.load.servers import TOKEN_PATH, ask
from podidentity_sandbox.processes import ProgramError
from tests.benchmarks.servers.conftest import PODS
from tests.support.waiting import until_sync

FORCE_REFRESH = TOKEN_PATH + "&bypass_cache=true"


def silent_seconds(nmi: Node) -> dict[str, float]:
    """For each watch of NMI's, how long ago something came."""
    state = json.loads(ask("127.0.0.1", nmi.probe_port, "/debug/state").body)
    return {name: watch["silent_seconds"] for name, watch in state["feed"]["watches"].items()}


def test_a_relist_makes_nmi_list_all_pods_again_while_it_serves(around: NodeServers, nmi: Node) -> None:
    for _ in range(2):
        time.sleep(1.1)  # NMI paces itself after watches that lived less than a second
        before = around.counts().lists
        around.relist()
        until_sync(lambda: around.counts().lists, holds=before.__lt__)
        until_sync(lambda: around.counts().watches == 3)
    assert nmi.answer(around.pods[-1])


def test_a_churn_reaches_nmi_as_events_of_both_kinds(around: NodeServers, nmi: Node) -> None:
    until_sync(lambda: around.counts().watches == 3)
    until_sync(lambda: min(silent_seconds(nmi)[kind] for kind in ("pods", "assigned_identities")) > 1.5)
    before = around.counts().events
    around.churn(100, seconds=2.0)
    until_sync(lambda: max(silent_seconds(nmi)[kind] for kind in ("pods", "assigned_identities")) < 1.0)
    until_sync(lambda: not around.counts().churning)
    assert around.counts().events - before == 200
    assert nmi.answer(around.pods[0]), "the change concerns no identity"


def test_a_new_churn_ends_the_former_one(around: NodeServers) -> None:
    around.churn(10, seconds=600)
    assert around.counts().churning
    around.churn(0, seconds=0)
    until_sync(lambda: not around.counts().churning)


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


def test_more_pods_have_the_next_addresses(around: NodeServers, nmi: Node) -> None:
    before = around.pods
    assert before == [f"127.1.0.{number + 1}" for number in range(PODS)]
    assert around.add_pods(1) == [*before, f"127.1.0.{PODS + 1}"]
    assert nmi.answer(f"127.1.0.{PODS + 1}")


def test_an_emulator_that_cannot_listen_reports_the_cause() -> None:
    with (
        pytest.raises(ProgramError, match=r"the emulators have ended: OSError: .*address"),
        node_servers(core=None, imds=("192.0.2.1", 80)),
    ):
        pass
