"""The type upgrade on an API server: once, despite other writers and failures."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import mic.startup.type_upgrade
from mic.app import COMPONENT
from mic.startup.type_upgrade import NAMED_MAX, REWRITTEN_MAX, TRIES, TypeUpgrade, UpgradeRecord
from podidentity.kube.access import ClusterAccess
from podidentity.kube.backoff import Backoff
from podidentity.kube.client import Client
from podidentity.kube.events import EventRecorder
from podidentity.resources import GROUP
from podidentity.version import VERSION
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.conftest import ROOT
from tests.direct_access import direct_access
from tests.podidentity.kube.scripted import Reply, ScriptedServer, status

NAME, KEY = "aad-pod-identity-config", "type-upgrade-status"
IDENTITIES = f"azureidentities.{GROUP}"
BINDINGS = f"azureidentitybindings.{GROUP}"
EXCEPTIONS = f"azurepodidentityexceptions.{GROUP}"
ASSIGNED = f"azureassignedidentities.{GROUP}"


def at_once() -> Backoff:
    return Backoff(lambda: 0.0)


def an_hour() -> Backoff:
    return Backoff(lambda: 1.0, first_seconds=3600.0, most_seconds=3600.0)


class Cluster:
    """The sandbox's API server, and one upgrade as a new leader begins it."""

    def __init__(self, api: KubeApi, client: Client) -> None:
        self.api = api
        self.client = client
        self.recorder = EventRecorder(client, "test", "here")

    def create(self, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> None:
        self.api.store.create(kind, {"metadata": {"name": name, "namespace": "default", **metadata}, "spec": spec})

    def spec(self, kind: str, name: str = "demo") -> Any:
        return self.api.store.get(kind, name, "default")["spec"]

    def recorded(self) -> Any:
        found = self.api.store.find("configmaps", NAME, "default")
        return found and found.get("data")

    def asked(self, method: str, what: str) -> int:
        return sum(each.method == method and what in each.path for each in self.api.requests)

    async def start(self, **options: Any) -> None:
        record = UpgradeRecord(self.client, "default", NAME, KEY)
        await TypeUpgrade(self.client, self.recorder, record, **{"in_flight": 4, "pauses": at_once, **options}).run()


@asynccontextmanager
async def serving(definitions: Path) -> AsyncIterator[Cluster]:
    api = await asyncio.to_thread(KubeApi, definitions)
    await api.start()
    access = direct_access(api.server, api.ca_pem, api.token)
    async with Client(access, user_agent=f"{COMPONENT}/test", timeout_seconds=10.0) as client:
        yield Cluster(api, client)
    await api.stop()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving(ROOT / "deploy" / "crds") as made:
        yield made


def old_ones(cluster: Cluster) -> None:
    cluster.create(IDENTITIES, "demo", {"type": 0, "ResourceID": "r", "ClientID": "c"})
    cluster.create(BINDINGS, "demo", {"AzureIdentity": "demo", "Selector": "demo"})
    cluster.create(EXCEPTIONS, "demo", {"PodLabels": {"app": "x"}})
    embedded = {"metadata": {"name": "demo", "namespace": "default"}}
    cluster.create(
        ASSIGNED,
        "demo",
        {
            "AzureIdentityRef": {**embedded, "spec": {"ResourceID": "r"}},
            "AzureBindingRef": {**embedded, "spec": {"Selector": "demo"}},
            "Pod": "web",
        },
    )


async def test_all_four_kinds_are_rewritten_and_that_is_recorded(cluster: Cluster) -> None:
    old_ones(cluster)
    await cluster.start()
    assert cluster.spec(IDENTITIES) == {"type": 0, "resourceID": "r", "clientID": "c"}
    assert cluster.spec(BINDINGS) == {"azureIdentity": "demo", "selector": "demo"}
    assert cluster.spec(EXCEPTIONS) == {"podLabels": {"app": "x"}}
    assigned = cluster.spec(ASSIGNED)
    assert assigned["azureIdentityRef"]["spec"] == {"resourceID": "r"}
    assert assigned["azureBindingRef"]["spec"] == {"selector": "demo"}
    assert assigned["azureBindingRef"]["kind"] == "AzureIdentityBinding"
    assert set(assigned) == {"azureIdentityRef", "azureBindingRef", "pod"}
    assert cluster.recorded() == {KEY: VERSION}


async def test_the_upgrade_runs_once(cluster: Cluster) -> None:
    await cluster.start()
    old_ones(cluster)
    cluster.api.requests.clear()
    await cluster.start()
    assert [each.path for each in cluster.api.requests] == [f"/api/v1/namespaces/default/configmaps/{NAME}"]
    assert "ResourceID" in cluster.spec(IDENTITIES)


@pytest.mark.parametrize("version", ["v1.8.17", ""])
async def test_the_go_implementations_record_counts(cluster: Cluster, version: str) -> None:
    metadata = {"name": NAME, "namespace": "default"}
    cluster.api.store.create("configmaps", {"metadata": metadata, "data": {KEY: version}})
    old_ones(cluster)
    await cluster.start()
    assert "ResourceID" in cluster.spec(IDENTITIES)
    assert cluster.recorded() == {KEY: version}


async def test_kinds_whose_definitions_drop_old_spellings_are_logged_once_and_not_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Path(__file__).parent / "reference") as cluster:
        with caplog.at_level(logging.INFO, "mic.startup.type_upgrade"):
            await cluster.start()
            await cluster.start()
        assert cluster.asked("GET", f"{GROUP}/v1/") == 0
        assert cluster.recorded() == {KEY: VERSION}
    assert sum("drop fields" in each.message for each in caplog.records) == 1


async def test_objects_in_the_present_spelling_are_not_written(cluster: Cluster) -> None:
    cluster.create(IDENTITIES, "demo", {"type": 0, "resourceID": "r", "auxiliaryTenantIDs": None})
    cluster.create(BINDINGS, "demo", {"azureIdentity": "demo", "selector": "demo"})
    await cluster.start()
    assert cluster.asked("PUT", GROUP) == 0
    assert cluster.recorded() == {KEY: VERSION}


async def test_metadata_and_foreign_fields_are_unchanged(cluster: Cluster) -> None:
    words = {"annotations": {"ClientID": "a"}, "labels": {"Selector": "l"}, "finalizers": ["example.com/theirs"]}
    cluster.create(IDENTITIES, "demo", {"ClientID": "c", "Own": {"ClientID": "x"}}, **words)
    before = cluster.api.store.get(IDENTITIES, "demo", "default")["metadata"]
    await cluster.start()
    after = cluster.api.store.get(IDENTITIES, "demo", "default")["metadata"]
    assert cluster.spec(IDENTITIES) == {"clientID": "c", "Own": {"ClientID": "x"}}
    assert {name: after[name] for name in words} == words
    assert (after["uid"], after["creationTimestamp"]) == (before["uid"], before["creationTimestamp"])


async def test_other_keys_of_the_config_map_are_unchanged(cluster: Cluster) -> None:
    metadata = {"name": NAME, "namespace": "default", "labels": {"app": "mic"}}
    cluster.api.store.create("configmaps", {"metadata": metadata, "data": {"other": "1"}, "binaryData": {"b": "AA=="}})
    await cluster.start()
    stored = cluster.api.store.get("configmaps", NAME, "default")
    assert stored["data"] == {"other": "1", KEY: VERSION}
    assert stored["binaryData"] == {"b": "AA=="}
    assert stored["metadata"]["labels"] == {"app": "mic"}


async def test_many_objects_are_read_in_pages(cluster: Cluster) -> None:
    for number in range(1100):
        cluster.create(BINDINGS, f"b{number}", {"Selector": str(number)})
    await cluster.start(in_flight=20)
    lists = [each.path for each in cluster.api.requests if f"{GROUP}/v1/azureidentitybindings?" in each.path]
    assert len(lists) == 3
    assert all("limit=500" in path for path in lists)
    assert {each["spec"]["selector"] for each in cluster.api.store.list(BINDINGS)} == {str(n) for n in range(1100)}


def write_before_update(cluster: Cluster, kind: str, change: dict[str, Any], times: int) -> None:
    """Change the object as another client immediately before each of the next *times* PUTs of it."""
    left = iter(range(times))

    def intercept(request: Recorded) -> None:
        if (
            request.method == "PUT"
            and kind.partition(".")[0] in request.path
            and (number := next(left, None)) is not None
        ):
            name = request.path.rpartition("/")[2]
            annotation = {"metadata": {"annotations": {"changed": str(number)}}}
            cluster.api.store.patch(kind, name, {**change, **annotation}, "default")

    cluster.api.intercept = intercept


async def test_a_concurrent_write_is_kept(cluster: Cluster) -> None:
    cluster.create(IDENTITIES, "demo", {"ClientID": "old", "ResourceID": "r"})
    write_before_update(cluster, IDENTITIES, {"spec": {"ClientID": "newer"}}, times=2)
    await cluster.start()
    assert cluster.spec(IDENTITIES) == {"clientID": "newer", "resourceID": "r"}
    assert cluster.api.store.get(IDENTITIES, "demo", "default")["metadata"]["annotations"] == {"changed": "1"}
    assert cluster.recorded() == {KEY: VERSION}


async def test_a_permanently_changing_object_is_left_for_the_next_start(cluster: Cluster) -> None:
    cluster.create(IDENTITIES, "demo", {"ClientID": "old"})
    write_before_update(cluster, IDENTITIES, {"spec": {"ClientID": "newer"}}, times=1000)
    await cluster.start()
    assert cluster.asked("PUT", "azureidentities/demo") == TRIES
    assert cluster.recorded() is None
    cluster.api.intercept = None
    await cluster.start()
    assert cluster.spec(IDENTITIES) == {"clientID": "newer"}
    assert cluster.recorded() == {KEY: VERSION}


async def test_an_object_deleted_in_the_meantime_is_no_failure(cluster: Cluster) -> None:
    cluster.create(IDENTITIES, "demo", {"ClientID": "old"})

    def intercept(request: Recorded) -> None:
        if request.method == "PUT" and "azureidentities" in request.path:
            cluster.api.store.delete(IDENTITIES, "demo", "default")

    cluster.api.intercept = intercept
    await cluster.start()
    assert cluster.recorded() == {KEY: VERSION}


async def test_another_writer_of_the_config_map_loses_nothing(cluster: Cluster) -> None:
    cluster.api.store.create("configmaps", {"metadata": {"name": NAME, "namespace": "default"}})
    write_before_update(cluster, "configmaps", {"data": {"other": "1"}}, times=1)
    await cluster.start()
    assert cluster.recorded() == {"other": "1", KEY: VERSION}


async def test_a_config_map_created_concurrently_is_completed(cluster: Cluster) -> None:
    def intercept(request: Recorded) -> None:
        if request.method == "POST" and request.path.endswith("/configmaps"):
            cluster.api.intercept = None
            cluster.api.store.create(
                "configmaps", {"metadata": {"name": NAME, "namespace": "default"}, "data": {"a": "b"}}
            )

    cluster.api.intercept = intercept
    await cluster.start()
    assert cluster.recorded() == {"a": "b", KEY: VERSION}


async def test_an_invalid_object_is_logged_and_the_others_continue(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create(BINDINGS, "bad", {"Selector": "x", "Weight": "a lot"})
    cluster.create(BINDINGS, "good", {"Selector": "x", "Weight": 1})
    cluster.create(IDENTITIES, "demo", {"ClientID": "c"})
    with caplog.at_level(logging.INFO, "mic.startup.type_upgrade"):
        await cluster.start()
    assert cluster.spec(BINDINGS, "good") == {"selector": "x", "weight": 1}
    assert cluster.spec(BINDINGS, "bad") == {"Selector": "x", "Weight": "a lot"}
    assert cluster.spec(IDENTITIES) == {"clientID": "c"}
    assert cluster.recorded() is None
    assert [each.resource for each in caplog.records if "cannot be rewritten" in each.message] == [  # type: ignore[attr-defined]
        "AzureIdentityBinding default/bad"
    ]
    sending = asyncio.create_task(cluster.recorder.run())
    await cluster.recorder.flushed()
    sending.cancel()
    (event,) = cluster.api.store.list("events")
    assert (event["involvedObject"]["name"], event["type"]) == ("bad", "Warning")
    assert "weight" in event["message"]
    # Corrected by its owner, it is upgraded at the next start.
    cluster.api.store.patch(BINDINGS, "bad", {"spec": {"Weight": 3}}, "default")
    await cluster.start()
    assert cluster.spec(BINDINGS, "bad") == {"selector": "x", "weight": 3}
    assert cluster.recorded() == {KEY: VERSION}


async def test_a_thousand_invalid_objects_do_not_fill_the_log(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(NAMED_MAX + 30):
        cluster.create(BINDINGS, f"b{number}", {"Weight": "x"})
    with caplog.at_level(logging.INFO, "mic.startup.type_upgrade"):
        await cluster.start()
    assert sum("cannot be rewritten" in each.message for each in caplog.records) == NAMED_MAX
    assert any(f"0 rewritten, {NAMED_MAX + 30} left" in str(each.__dict__.get("outcome")) for each in caplog.records)


def refusing(cluster: Cluster, code: int, reason: str, *, times: int, method: str = "", what: str = "") -> None:
    """Answer the next *times* requests that this is about with an error."""
    left = iter(range(times))

    def intercept(request: Recorded) -> StatusError | None:
        if method in {"", request.method} and what in request.path and next(left, None) is not None:
            return StatusError(code, reason, "so says the test")
        return None

    cluster.api.intercept = intercept


@pytest.mark.parametrize(
    ("method", "what"),
    [("GET", "configmaps"), ("GET", "azureidentities"), ("PUT", "demo"), ("POST", "configmaps"), ("GET", "openapi")],
)
async def test_a_transient_failure_is_retried(cluster: Cluster, method: str, what: str) -> None:
    old_ones(cluster)
    refusing(cluster, 503, "ServiceUnavailable", times=TRIES - 1, method=method, what=what)
    await cluster.start()
    assert cluster.spec(IDENTITIES) == {"type": 0, "resourceID": "r", "clientID": "c"}
    assert cluster.recorded() == {KEY: VERSION}


async def test_an_object_rejected_by_a_broken_webhook_blocks_no_other(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        cluster.create(IDENTITIES, name, {"ClientID": name})
    refusing(cluster, 500, "InternalError", times=1000, method="PUT", what="azureidentities/b")
    await cluster.start()
    assert [cluster.spec(IDENTITIES, name) for name in ("a", "b", "c")] == [
        {"clientID": "a"},
        {"ClientID": "b"},
        {"clientID": "c"},
    ]
    assert cluster.recorded() is None


@pytest.mark.parametrize(
    ("method", "what", "granted"),
    [
        ("GET", "configmaps", "get, create and update on ConfigMaps"),
        ("POST", "configmaps", "create and update on ConfigMaps"),
        ("GET", "azurepodidentityexceptions", "list and update"),
    ],
)
async def test_a_missing_permission_ends_nothing_and_the_log_names_what_to_grant(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, method: str, what: str, granted: str
) -> None:
    old_ones(cluster)
    refusing(cluster, 403, "Forbidden", times=1000, method=method, what=what)
    await cluster.start()
    assert any(granted in each.message for each in caplog.records)
    assert cluster.recorded() is None
    # Without the record MIC does nothing; otherwise it does all permitted work.
    assert ("ResourceID" in cluster.spec(IDENTITIES)) == ((method, what) == ("GET", "configmaps"))


async def test_a_kind_that_is_not_installed_has_nothing_to_upgrade(cluster: Cluster) -> None:
    cluster.create(IDENTITIES, "demo", {"ClientID": "c"})
    cluster.api.store.delete("customresourcedefinitions.apiextensions.k8s.io", EXCEPTIONS)
    await cluster.start()
    assert cluster.spec(IDENTITIES) == {"clientID": "c"}
    assert cluster.recorded() == {KEY: VERSION}


async def test_a_server_that_never_responds_delays_the_start_by_the_limit_only(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    refusing(cluster, 429, "TooManyRequests", times=100_000)
    async with asyncio.timeout(5.0):
        await cluster.start(limit_seconds=0.2, pauses=an_hour)
    assert any("takes too long" in each.message for each in caplog.records)


async def test_an_object_nested_too_deeply_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    deep = b'{"metadata":{"name":"deep","namespace":"ns"},"spec":{"ClientID":"c","x":%s1%s}}' % (
        b"[" * 3000,
        b"]" * 3000,
    )
    good = b'{"metadata":{"name":"good","namespace":"ns"},"spec":{"ClientID":"c"}}'
    server = ScriptedServer()
    await server.start()
    server.lists += [status(404, "NotFound"), status(404, "NotFound")]
    server.lists += [Reply(b'{"metadata":{},"items":[%s]}' % each) for each in (deep + b"," + good, deep, good)]
    server.lists += [Reply(b'{"metadata":{}}')] * 3
    server.others.append(Reply(good))
    async with Client(ClusterAccess(server.url), user_agent=f"{COMPONENT}/test") as client:
        record = UpgradeRecord(client, "ns", NAME, KEY)
        await TypeUpgrade(client, EventRecorder(client, "test", "here"), record, in_flight=1).run()
    await server.stop()
    written = [(each.method, each.path) for each in server.requests if each.method != "GET"]
    assert written == [("PUT", f"/apis/{GROUP}/v1/namespaces/ns/azureidentities/good")]
    assert [each.resource for each in caplog.records if "cannot be rewritten" in each.message] == [  # type: ignore[attr-defined]
        "AzureIdentity ns/deep"
    ]


async def test_an_object_with_unexpected_metadata_is_logged_and_the_others_continue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = b'{"metadata":{"name":["odd"],"namespace":"ns"},"spec":{"ClientID":"c"}}'
    good = b'{"metadata":{"name":"good","namespace":"ns"},"spec":{"ClientID":"c"}}'
    server = ScriptedServer()
    await server.start()
    server.lists += [status(404, "NotFound"), status(404, "NotFound")]
    server.lists += [Reply(b'{"metadata":{},"items":[%s]}' % (odd + b"," + good))] + [Reply(b'{"metadata":{}}')] * 3
    server.others.append(Reply(good))
    async with Client(ClusterAccess(server.url), user_agent=f"{COMPONENT}/test") as client:
        record = UpgradeRecord(client, "ns", NAME, KEY)
        await TypeUpgrade(client, EventRecorder(client, "test", "here"), record, in_flight=1).run()
    await server.stop()
    written = [(each.method, each.path) for each in server.requests if each.method != "GET"]
    assert written == [("PUT", f"/apis/{GROUP}/v1/namespaces/ns/azureidentities/good")]
    assert any("is incomplete" in each.message for each in caplog.records)


@pytest.mark.parametrize("what", ["respelled", "decode_meta"])
async def test_an_unexpected_exception_ends_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """About one object it leaves that one out; anywhere else it leaves the upgrade for the next start."""
    for name in ("bad", "good"):
        cluster.create(IDENTITIES, name, {"ClientID": name})
    real = getattr(mic.startup.type_upgrade, what)

    def fails(*given: Any) -> Any:
        if b"bad" in bytes(given[-1]) if what == "decode_meta" else given[-1].get("metadata", {}).get("name") == "bad":
            raise LookupError("odd")
        return real(*given)

    monkeypatch.setattr(mic.startup.type_upgrade, what, fails)
    await cluster.start()
    assert cluster.recorded() is None
    if what == "respelled":
        assert cluster.spec(IDENTITIES, "good") == {"clientID": "good"}
        assert [each.resource for each in caplog.records if "cannot be rewritten" in each.message] == [  # type: ignore[attr-defined]
            "AzureIdentity default/bad"
        ]
    else:
        assert any("failed unexpectedly" in each.message for each in caplog.records)


async def test_a_server_that_becomes_unreachable_is_not_called_for_each_object(
    caplog: pytest.LogCaptureFixture,
) -> None:
    items = b",".join(b'{"metadata":{"name":"o%d","namespace":"ns"},"spec":{"ClientID":"c"}}' % n for n in range(3))
    server = ScriptedServer()
    await server.start()
    server.lists += [status(404, "NotFound"), status(404, "NotFound")]
    server.lists += [Reply(b'{"metadata":{},"items":[%s]}' % items)] * TRIES + [Reply(b'{"metadata":{}}')] * 3
    server.others += [None] * TRIES
    async with Client(ClusterAccess(server.url), user_agent=f"{COMPONENT}/test", timeout_seconds=0.1) as client:
        record = UpgradeRecord(client, "ns", NAME, KEY)
        await TypeUpgrade(client, EventRecorder(client, "test", "here"), record, in_flight=1, pauses=at_once).run()
    await server.stop()
    assert [each.method for each in server.requests if each.method != "GET"] == ["PUT"] * TRIES
    assert any("keeps failing" in each.message for each in caplog.records)
    assert any("is incomplete" in each.message for each in caplog.records)


async def test_an_unreadable_record_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server = ScriptedServer()
    await server.start()
    server.lists += [Reply(b'{"data":%s%s}' % (b"[" * 100_000, b"]" * 100_000)), *[Reply(b"<html>")] * (TRIES - 1)]
    async with Client(ClusterAccess(server.url), user_agent=f"{COMPONENT}/test") as client:
        record = UpgradeRecord(client, "ns", NAME, KEY)
        await TypeUpgrade(client, EventRecorder(client, "test", "here"), record, in_flight=1, pauses=at_once).run()
    await server.stop()
    assert len(server.requests) == TRIES
    assert any("cannot be read" in each.message for each in caplog.records)


async def test_large_objects_in_the_present_spelling_are_not_decoded_and_old_ones_are_rewritten(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    padding = {"unknown": ["x" * 95] * 500}
    cluster.create(EXCEPTIONS, "present", {"podLabels": {"app": "x" * 400_000}, **padding})
    cluster.create(IDENTITIES, "old", {"ClientID": "c", "type": 0, **padding})
    cluster.create(BINDINGS, "null", {"azureIdentity": "i", "AzureIdentity": None, **padding})
    await cluster.start()
    assert cluster.spec(IDENTITIES, "old") == {"clientID": "c", "type": 0, **padding}
    assert cluster.spec(BINDINGS, "null") == {"azureIdentity": "i", **padding}
    assert cluster.asked("PUT", "azurepodidentityexceptions") == 0
    assert cluster.recorded() == {KEY: VERSION}
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_an_object_too_large_to_rewrite_is_named_and_the_others_continue(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create(IDENTITIES, "large", {"ClientID": "c", "unknown": "x" * (REWRITTEN_MAX + 1)})
    cluster.create(IDENTITIES, "small", {"ClientID": "c"})
    await cluster.start()
    assert "ClientID" in cluster.spec(IDENTITIES, "large")
    assert cluster.spec(IDENTITIES, "small") == {"clientID": "c"}
    assert cluster.recorded() is None
    (record,) = [each for each in caplog.records if "cannot be rewritten" in each.message]
    assert (record.resource, "limit is" in record.reason) == ("AzureIdentity default/large", True)  # type: ignore[attr-defined]
