"""Lists that are cut are fair to each namespace, reads are bounded and in order, misspelled texts are found, and the
API server's clock decides whether a refusal is recent.
"""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import msgspec
import pytest

from podidctl.checks.explanation import explain
from podidctl.checks.rules import report
from podidctl.evaluation.similar_texts import COMPARED_MAX, _distance, similar_texts
from podidctl.facts.kinds import Daemon
from podidctl.facts.model import Facts, ReadFailure, ServerState
from podidctl.facts.workloads import OWNERS_MAX, Owner
from podidctl.reading import daemons as daemons_reader
from podidctl.reading.daemons import MetricsPage, Unread, read_pages
from podidctl.reading.reader import CLUSTER, pod_parts
from podidctl.reading.reader import read as read_facts
from podidctl.reading.requests import BATCH, in_batches, read_server, server_clock
from podidctl.report.documents import Explanation
from podidctl.report.finding import Level
from podidctl.report.text import by_turns, listed, namespace_of
from podidentity.kube.client import Client
from podidentity.kube.decoding import VALUE_MAX
from podidentity.kube.errors import NoResponse
from podidentity_sandbox.kubeapi.kinds import ResourceType
from tests.support.mic.emulated_cloud import ASSIGNED, BINDINGS, IDENTITIES
from tests.support.podidctl.memory_cluster import MemoryCluster


def test_groups_take_turns() -> None:
    assert by_turns(["a/1", "a/2", "a/3", "b/1", "c/1", "c/2"], namespace_of) == [
        *("a/1", "b/1", "c/1"),
        *("a/2", "c/2", "a/3"),
    ]
    assert by_turns([None, None], id) == [None, None]
    assert listed(["shop/web", *(f"aaa/{number}" for number in range(9))]) == (
        "aaa/0, aaa/1, aaa/2, aaa/3, shop/web and 5 more"
    )
    assert listed(f"node-{number}" for number in range(7)) == "node-0, node-1, node-2, node-3, node-4 and 2 more"


async def test_requests_are_concurrent_in_batches_and_keep_their_order() -> None:
    running = most = 0

    async def request(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return number

    numbers = range(2 * BATCH + 3)
    assert await in_batches(partial(request, number) for number in numbers) == list(numbers)
    assert most == BATCH


async def test_a_failed_request_is_raised_after_its_batch() -> None:
    ended = []

    async def fail() -> int:
        raise ValueError("refused")

    async def end() -> int:
        await asyncio.sleep(0.001)
        ended.append(1)
        return 1

    with pytest.raises(ValueError, match="refused"):
        await in_batches([fail, end, *([end] * BATCH)])
    assert len(ended) == BATCH - 1, "the next batch is not started"


class Pods:
    """An API server with a pod of NMI for each name."""

    def __init__(self, *names: str) -> None:
        self._names = names

    async def list(self, *_: Any, **__: Any) -> list[Daemon]:
        return msgspec.convert([{"metadata": {"name": name}} for name in self._names], list[Daemon])


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pods whose name starts with `slow` take a minute to respond, the others a second."""

    async def read_page(_: Any, daemon: Daemon) -> MetricsPage:
        await asyncio.sleep(60 if daemon.metadata.name.startswith("slow") else 1)
        return MetricsPage("page", 9090)

    monkeypatch.setattr(daemons_reader, "read_page", read_page)


async def read(within_seconds: float | None, *names: str) -> list[tuple[str, str]]:
    def use(daemon: Daemon, page: MetricsPage | Unread) -> tuple[str, str]:
        return daemon.metadata.name, page.text if isinstance(page, MetricsPage) else page.problem

    return await read_pages(cast("Client", Pods(*names)), use, within_seconds)


async def test_a_page_that_does_not_come_in_time_is_unread_and_the_others_are_not() -> None:
    expected = [("a", "page"), ("slow", "no response within 30 s"), ("z", "page")]
    assert await read(30.0, "a", "slow", "z") == expected
    names = [f"slow-{number:02}" for number in range(daemons_reader.CONCURRENT_MAX + 1)]
    assert await read(None, *names) == [(name, "page") for name in names]
    assert await read(30.0) == []


@pytest.mark.parametrize(
    ("wanted", "texts", "similar"),
    [
        ("aadpodidbinding", ["aadpodidbindng", "app"], ["aadpodidbindng"]),
        ("aadpodidbinding", ["aadPodIdBinding", "aadpodidbindng"], ["aadPodIdBinding"]),
        ("web", ["wbe", "Web ", "wab"], ["Web "]),
        ("web", ["wbe", "weeb", "we", "bew", "database"], ["wbe", "we", "weeb"]),
        ("payments", ["payment", "paymnet", "paid"], ["payment"]),
        ("payments-api", ["paymets-ap", "payroll-api"], ["paymets-ap"]),
        (
            "payments-api",
            ["payxmentxs-api", "pyaments-pai", "pxymentx-api", "pxyments-ap", "pxyxentx-api"],
            ["payxmentxs-api", "pxyments-ap", "pxymentx-api", "pyaments-pai"],
        ),
        ("team-1", ["team-2", "team-12"], []),
        ("web", ["", "web", "x" * 1_000_000], []),
    ],
)
def test_only_typing_errors_are_similar(wanted: str, texts: list[str], similar: list[str]) -> None:
    assert similar_texts(wanted, texts) == similar


def test_few_of_thousands_of_texts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def distance(one: str, other: str) -> int:
        compared.append(other)
        return _distance(one, other)

    monkeypatch.setattr("podidctl.evaluation.similar_texts._distance", distance)
    wanted = "payments-production-" + "x" * 43
    other = [f"{number:05}-" + "abcdefghij" * 5 for number in range(10_000)]
    anagrams = ["".join(random.Random(number).sample(wanted, len(wanted))) for number in range(2_000)]
    assert wanted[:-1] in similar_texts(wanted, [wanted[:-1], *other])
    assert compared == [wanted[:-1]]
    assert similar_texts(wanted, anagrams) == []
    assert len(compared) == 1 + COMPARED_MAX


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def test_the_servers_clock_is_read_with_its_version(cluster: MemoryCluster) -> None:
    server = await read_server(cluster.client)
    assert server.version.startswith("v1.")
    assert abs(server.ahead_seconds or 0.0) < 300
    assert [request.path for request in cluster.api.requests] == ["/version"]


async def test_a_pod_is_explained_by_the_servers_time(cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podidctl.reading.requests.server_clock", lambda *_: ServerState("v1.31.0", 86400.0, 0.5))
    cluster.pod("web", "n0")
    facts = await read_facts(cluster.client, Facts(scope=("default", "web")), pod_parts(None))
    assert facts.server_time - facts.now == timedelta(days=1)


async def test_a_refused_version_still_has_the_servers_clock(cluster: MemoryCluster) -> None:
    cluster.api.refuse(403, "Forbidden", what="/version")
    server = await read_server(cluster.client)
    assert (server.version, server.failure) == ("", ReadFailure("not allowed: refused by the test"))
    assert abs(server.ahead_seconds or 86400.0) < 300
    findings = report(await read_facts(cluster.client, Facts(), CLUSTER)).findings
    said = {finding.check: finding.level for finding in findings}
    assert (said["API server"], said["clocks"]) == (Level.UNKNOWN, Level.OK)


@pytest.mark.parametrize(("status", "then"), [(403, "run this command with more permissions"), (500, "try again")])
async def test_what_the_server_refuses_to_send_is_unknown(cluster: MemoryCluster, status: int, then: str) -> None:
    cluster.api.refuse(status, "Forbidden" if status == 403 else "InternalError")
    server, clocks, objects = report(await read_facts(cluster.client, Facts(), CLUSTER)).findings
    assert [finding.check for finding in (server, clocks, objects)] == ["API server", "clocks", "objects"]
    assert clocks.level is Level.OK, "by the date of the refusal"
    for finding in (server, objects):
        assert finding.level is Level.UNKNOWN
        assert finding.next.startswith(then)
    assert {"NMI", "MIC", "leader"} <= {effect.check for effect in server.affects if effect.says == "not checked"}


async def test_unreadable_and_old_objects_and_a_missing_definition_hide_nothing(cluster: MemoryCluster) -> None:
    cluster.create(IDENTITIES, "odd", {"clientID": "x" * (VALUE_MAX + 1)})
    cluster.create(BINDINGS, "old", {"AzureIdentity": "demo", "Selector": "demo"})
    cluster.api.store.delete("customresourcedefinitions.apiextensions.k8s.io", ASSIGNED)
    findings = report(await read_facts(cluster.client, Facts(), CLUSTER)).findings
    texts = {finding.check: finding.says for finding in findings if finding.level is not Level.OK}
    assert "1 CustomResourceDefinition does not exist" in texts["definitions"]
    assert texts["objects"].endswith("object that NMI and MIC cannot read: azureidentities default/odd")
    assert "azureidentitybindings default/old (spec.AzureIdentity, spec.Selector)" in texts["spellings"]


async def test_a_slow_version_does_not_end_a_command(cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    route = cluster.api._route

    async def respond(request: Any, user: Any) -> Any:
        if request.path == "/version":
            await asyncio.sleep(3600)
        return await route(request, user)

    monkeypatch.setattr(cluster.api, "_route", respond)
    cluster.pod("web", "n0")
    for scope, parts in ((("default", "web"), pod_parts(None)), (("", ""), CLUSTER)):
        facts = await read_facts(cluster.client, Facts(scope=scope), parts)
        assert facts.server.failure == ReadFailure("no response from http://kubernetes within 30 s", is_forbidden=False)
    (line,) = (finding for finding in report(facts).findings if finding.check in {"API server", "clocks"})
    assert (line.level, line.says) == (Level.UNKNOWN, "no response from http://kubernetes within 30 s")


async def test_a_silent_server_is_noticed_before_the_version_is_read(cluster: MemoryCluster) -> None:
    cluster.api.cut()
    with pytest.raises(NoResponse):
        await read_facts(cluster.client, Facts(), CLUSTER)


async def test_without_the_servers_time_this_machines_counts(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podidctl.reading.requests.server_clock", lambda *_: ServerState("v1.31.0"))
    cluster.pod("web", "n0")
    facts = await read_facts(cluster.client, Facts(scope=("default", "web")), pod_parts(None))
    assert facts.server_time == facts.now


async def test_events_of_nmi_and_mic_alone_are_read_and_forbidden_ones_are_unread(cluster: MemoryCluster) -> None:
    cluster.pod("web", "n0")
    uid = cluster.api.store.get("pods", "web", "default")["metadata"]["uid"]
    for component in ("aad-pod-identity-nmi", "kubelet"):
        document = {
            "metadata": {"name": component, "namespace": "default"},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": uid, "apiVersion": "v1"},
            "reason": "IdentityNotAssigned",
            "message": f"from {component} \x1b[31m eyJhbGciOiJSUzI1NiJ9.eyJhIjoxfQ.c2lnbmF0dXJl",
            "source": {"component": component},
        }
        cluster.api.store.create("events", document)

    async def explanation() -> Explanation:
        return explain(await read_facts(cluster.client, Facts(scope=("default", "web")), pod_parts(None)))

    (event,) = (await explanation()).events
    assert event.by == "aad-pod-identity-nmi"
    assert event.message.isprintable()
    assert "eyJhbGci" not in event.message
    cluster.api.refuse(403, "Forbidden", what="/events")
    unread = await explanation()
    assert (unread.events, unread.events_unread[:11]) == ([], "not allowed")


def owner_reference(cluster: MemoryCluster, kind: str, name: str) -> dict[str, Any]:
    uid = cluster.api.store.get(f"{kind.lower()}s.apps", name, "default")["metadata"]["uid"]
    return {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": True}


async def owner_of_web(cluster: MemoryCluster) -> Owner | None:
    return (await read_facts(cluster.client, Facts(scope=("default", "web")), pod_parts(None))).owner


async def test_the_owner_of_a_pod_without_a_label_is_read_if_it_may_be(cluster: MemoryCluster) -> None:
    for kind in ("Deployment", "ReplicaSet"):
        cluster.api._registry.add(ResourceType(kind, f"{kind.lower()}s", "apps"))
    store, meta = cluster.api.store, {"namespace": "default"}
    store.create("deployments.apps", {"metadata": {**meta, "name": "web"}})
    owners = [owner_reference(cluster, "Deployment", "web")]
    store.create("replicasets.apps", {"metadata": {**meta, "name": "web-1", "ownerReferences": owners}})
    cluster.pod("web", "n0")
    assert await owner_of_web(cluster) is None
    assert not any("/apps/" in request.path for request in cluster.api.requests)
    owners = [owner_reference(cluster, "ReplicaSet", "web-1")]
    store.patch("pods", "web", {"metadata": {"labels": None, "ownerReferences": owners}}, "default")
    owner = await owner_of_web(cluster)
    assert owner is not None
    assert (owner.kind.name, owner.workload.key) == ("Deployment", ("default", "web"))
    forged = [owners[0] | {"uid": "of a former one"}]
    store.patch("pods", "web", {"metadata": {"ownerReferences": forged}}, "default")
    assert await owner_of_web(cluster) is None
    store.patch("pods", "web", {"metadata": {"ownerReferences": owners}}, "default")
    cluster.api.refuse(403, "Forbidden", what="/replicasets")
    assert await owner_of_web(cluster) is None
    cluster.api.intercept = None
    circular = [owner_reference(cluster, "ReplicaSet", "web-1")]
    store.patch("replicasets.apps", "web-1", {"metadata": {"ownerReferences": circular}}, "default")
    cluster.api.requests.clear()
    await owner_of_web(cluster)
    assert sum("/replicasets" in request.path for request in cluster.api.requests) == OWNERS_MAX


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Thu, 01 Jan 2026 13:00:01 GMT", 3600.5),
        ("Thu, 01 Jan 2026 11:00:01 -0000", -3599.5),
        ("", None),
        ("yesterday", None),
        ("Thu, 99 Jan 2026 13:00:01 GMT", None),
    ],
)
def test_the_difference_is_to_the_middle_of_the_request(date: str, ahead: float | None) -> None:
    assert server_clock("v1.31.0", date, NOON, 2.0).ahead_seconds == ahead
