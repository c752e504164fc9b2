"""The emulators around NMI execute the commands of a run, with an effect on NMI."""

import json
import time

from benchmarks.load.node import Node
from benchmarks.load.node_servers import NodeServers
from benchmarks.load.servers import TOKEN_PATH
from tests.support.waiting import until_sync

FORCE_REFRESH = TOKEN_PATH + "&bypass_cache=true"


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
