"""Objects that the type upgrade rewrites and those that it cannot, the record by which it runs once, the permissions
that it needs, and failing requests.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from typing_extensions import override

import mic.startup.type_upgrade
from mic.app import COMPONENT
from mic.startup.type_upgrade import NAMED_MAX, REWRITTEN_MAX, TRIES
from podidentity import resources
from podidentity.kube.backoff import Backoff
from podidentity.resources import GROUP
from podidentity.version import VERSION
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.checkout import ROOT
from tests.support.depths import TOO_DEEP_VALUE
from tests.support.memory_api import MemoryApi
from tests.support.mic.upgraded_cluster import (
    ASSIGNED,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    KEY,
    NAME,
    Cluster,
    old_ones,
    serving,
    upgrade_on,
    write_before_update,
)
from tests.support.podidentity.kube.scripted import Reply, Request, ScriptedServer, status


async def test_many_objects_are_read_in_pages(cluster: Cluster) -> None:
    for number in range(1100):
        cluster.create(BINDINGS, f"b{number}", {"Selector": str(number)})
    await cluster.start(in_flight=20)
    lists = [request.path for request in cluster.api.requests if f"{GROUP}/v1/azureidentitybindings?" in request.path]
    assert len(lists) == 3
    assert all("limit=500" in path for path in lists)
    assert {stored["spec"]["selector"] for stored in cluster.api.store.list(BINDINGS)} == {str(n) for n in range(1100)}


async def test_a_kind_that_is_not_installed_has_nothing_to_upgrade(cluster: Cluster) -> None:
    cluster.create(IDENTITIES, "demo", {"ClientID": "c"})
    cluster.api.store.delete("customresourcedefinitions.apiextensions.k8s.io", EXCEPTIONS)
    await cluster.start()
    assert cluster.spec(IDENTITIES) == {"clientID": "c"}
    assert cluster.recorded() == {KEY: VERSION}


async def test_large_objects_with_present_field_names_are_not_decoded_and_old_ones_are_rewritten(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    padding = {"unknown": ["x" * 95] * 500}
    cluster.create(EXCEPTIONS, "present", {"podLabels": {"app": "x" * 400_000}, **padding})
    words = {"annotations": {"ClientID": "a"}, "labels": {"Selector": "l"}, "finalizers": ["example.com/theirs"]}
    cluster.create(IDENTITIES, "old", {"ClientID": "c", "type": 0, **padding}, **words)
    cluster.create(BINDINGS, "null", {"azureIdentity": "i", "AzureIdentity": None, **padding})
    before = cluster.api.store.get(IDENTITIES, "old", "default")["metadata"]
    await cluster.start()
    after = cluster.api.store.get(IDENTITIES, "old", "default")["metadata"]
    assert after == before | {name: after[name] for name in ("resourceVersion", "generation")}
    assert cluster.spec(IDENTITIES, "old") == {"clientID": "c", "type": 0, **padding}
    assert cluster.spec(BINDINGS, "null") == {"azureIdentity": "i", **padding}
    assert cluster.count_requests("PUT", "azurepodidentityexceptions") == 0
    assert cluster.recorded() == {KEY: VERSION}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_upgrade_runs_once(cluster: Cluster) -> None:
    assert await cluster.start()
    old_ones(cluster)
    cluster.api.requests.clear()
    assert await cluster.start()
    assert [request.path for request in cluster.api.requests] == [f"/api/v1/namespaces/default/configmaps/{NAME}"]
    assert "ResourceID" in cluster.spec(IDENTITIES)


@pytest.mark.parametrize("version", ["v1.8.17", ""])
async def test_the_go_implementations_record_counts(cluster: Cluster, version: str) -> None:
    metadata = {"name": NAME, "namespace": "default"}
    cluster.api.store.create("configmaps", {"metadata": metadata, "data": {KEY: version}})
    old_ones(cluster)
    await cluster.start()
    assert "ResourceID" in cluster.spec(IDENTITIES)
    assert cluster.recorded() == {KEY: version}


async def test_kinds_that_drop_old_field_names_are_logged_once_and_not_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(ROOT / "tests" / "support" / "mic" / "reference") as cluster:
        with caplog.at_level(logging.INFO, "mic.startup.type_upgrade"):
            await cluster.start()
            await cluster.start()
        assert cluster.count_requests("GET", f"{GROUP}/v1/") == 0
        assert cluster.recorded() == {KEY: VERSION}
    assert sum("drop fields" in record.message for record in caplog.records) == 1


async def test_other_content_of_the_config_map_and_another_writer_of_it_lose_nothing(cluster: Cluster) -> None:
    metadata = {"name": NAME, "namespace": "default", "labels": {"app": "mic"}}
    cluster.api.store.create("configmaps", {"metadata": metadata, "data": {"other": "1"}, "binaryData": {"b": "AA=="}})
    write_before_update(cluster, "configmaps", {"data": {"another": "2"}}, times=1)
    await cluster.start()
    assert cluster.recorded() == {"other": "1", "another": "2", KEY: VERSION}
    stored = cluster.api.store.get("configmaps", NAME, "default")
    assert stored["binaryData"] == {"b": "AA=="}
    assert stored["metadata"]["labels"] == {"app": "mic"}


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


async def test_an_unreadable_record_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server = ScriptedServer()
    server.lists += [Reply(b'{"data":%s%s}' % (b"[" * 100_000, b"]" * 100_000)), *[Reply(b"<html>")] * (TRIES - 1)]
    assert await upgrade_on(server) == []
    assert len(server.requests) == TRIES
    assert any("cannot be read" in record.message for record in caplog.records)


RBAC = "rbac.authorization.k8s.io"
KINDS = (resources.IDENTITIES, resources.BINDINGS, resources.EXCEPTIONS, resources.ASSIGNED_IDENTITIES)


def allow(api: MemoryApi, namespace: str, group: str, kinds: list[str], verbs: list[str]) -> None:
    """Give MIC a role, in *namespace* or in all."""
    kind, name = "Role" if namespace else "ClusterRole", "-".join(verbs)
    rules = [{"apiGroups": [group], "resources": kinds, "verbs": verbs}]
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "mic", "namespace": "default"}],
    }
    api.store.create(f"{kind.lower()}s.{RBAC}", {"metadata": {"name": name}, "rules": rules}, namespace)
    api.store.create(f"{kind.lower()}bindings.{RBAC}", binding, namespace)


async def test_list_and_update_suffice_and_get_create_update_for_the_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = MemoryApi(rbac=True)
    api.store.create("serviceaccounts", {"metadata": {"name": "mic", "namespace": "default"}})
    path = "/api/v1/namespaces/default/serviceaccounts/mic/token"
    async with api.client("administrator") as administrator:
        given = json.loads(await administrator.request("POST", path, body=b'{"spec":{"expirationSeconds":600}}'))
    allow(api, "", resources.GROUP, [kind.plural for kind in KINDS], ["list", "update"])
    allow(api, "default", "", ["configmaps"], ["get", "create", "update"])
    async with api.client(f"{COMPONENT}/test", given["status"]["token"]) as client:
        cluster = Cluster(api, client)
        old_ones(cluster)
        write_before_update(cluster, EXCEPTIONS, {"spec": {"PodLabels": {"app": "changed"}}}, times=1)
        with caplog.at_level(logging.WARNING, "mic.startup.type_upgrade"):
            await cluster.start()
    assert [record.message for record in caplog.records] == []
    assert cluster.recorded() == {KEY: VERSION}
    assert cluster.spec(IDENTITIES) == {"type": 0, "resourceID": "r", "clientID": "c"}
    assert cluster.spec(BINDINGS) == {"azureIdentity": "demo", "selector": "demo"}
    assert cluster.spec(EXCEPTIONS) == {"podLabels": {"app": "changed"}}
    assigned = cluster.spec(ASSIGNED)
    assert assigned["azureIdentityRef"]["spec"] == {"resourceID": "r"}
    assert assigned["azureBindingRef"]["spec"] == {"selector": "demo"}
    assert assigned["azureBindingRef"]["kind"] == "AzureIdentityBinding"
    assert set(assigned) == {"azureIdentityRef", "azureBindingRef", "pod"}


@pytest.mark.parametrize(
    ("method", "what"),
    [("GET", "configmaps"), ("GET", "azureidentities"), ("PUT", "demo"), ("POST", "configmaps"), ("GET", "openapi")],
)
async def test_a_transient_failure_is_retried(cluster: Cluster, method: str, what: str) -> None:
    old_ones(cluster)
    cluster.api.refuse(503, "ServiceUnavailable", method, what=what, times=TRIES - 1)
    await cluster.start()
    assert cluster.spec(IDENTITIES) == {"type": 0, "resourceID": "r", "clientID": "c"}
    assert cluster.recorded() == {KEY: VERSION}


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
    cluster.api.refuse(403, "Forbidden", method, what=what)
    await cluster.start()
    assert any(granted in record.message for record in caplog.records)
    assert cluster.recorded() is None
    # Without the record MIC does nothing; otherwise it does all permitted work.
    assert ("ResourceID" in cluster.spec(IDENTITIES)) == ((method, what) == ("GET", "configmaps"))


async def test_a_server_that_never_responds_delays_the_start_by_the_limit_only(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.api.refuse(429, "TooManyRequests")
    await cluster.start(limit_seconds=0.2, pauses=lambda: Backoff(lambda: 1.0, first_seconds=3600.0))
    assert any("takes too long" in record.message for record in caplog.records)


class Unwritable(ScriptedServer):
    """Answers each read, also one that is sent again after its time limit, and no write."""

    @override
    def _reply(self, request: Request) -> Reply | None:
        if request.method != "GET":
            return None
        if not request.path.startswith(f"/apis/{GROUP}/"):
            return status(404, "NotFound")
        named = range(3) if request.path.endswith("/azureidentities") else ()
        items = [{"metadata": {"name": f"o{name}", "namespace": "ns"}, "spec": {"ClientID": "c"}} for name in named]
        return Reply({"metadata": {}, "items": items})


async def test_a_server_that_becomes_silent_is_not_called_for_each_object(
    caplog: pytest.LogCaptureFixture,
) -> None:
    written = await upgrade_on(Unwritable(), timeout_seconds=0.5)
    assert set(written) == {("PUT", f"/apis/{GROUP}/v1/namespaces/ns/azureidentities/o0")}
    assert len(written) <= TRIES
    assert any("keeps failing" in record.message for record in caplog.records)
    assert any("is incomplete" in record.message for record in caplog.records)


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
    assert cluster.count_requests("PUT", "azureidentities/demo") == TRIES
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


def refused(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the objects that the log names as those that cannot be rewritten."""
    return [record.__dict__["resource"] for record in caplog.records if "cannot be rewritten" in record.message]


async def test_an_invalid_object_stops_no_other(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    cluster.create(BINDINGS, "bad", {"Selector": "x", "Weight": "a lot"})
    cluster.create(BINDINGS, "good", {"Selector": "x", "Weight": 1})
    cluster.create(IDENTITIES, "demo", {"ClientID": "c"})
    with caplog.at_level(logging.INFO, "mic.startup.type_upgrade"):
        await cluster.start()
    assert cluster.spec(BINDINGS, "good") == {"selector": "x", "weight": 1}
    assert cluster.spec(BINDINGS, "bad") == {"Selector": "x", "Weight": "a lot"}
    assert cluster.spec(IDENTITIES) == {"clientID": "c"}
    assert cluster.recorded() is None
    assert refused(caplog) == ["AzureIdentityBinding default/bad"]
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


async def test_many_invalid_objects_do_not_fill_the_log(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(NAMED_MAX + 30):
        cluster.create(BINDINGS, f"b{number}", {"Weight": "x"})
    with caplog.at_level(logging.INFO, "mic.startup.type_upgrade"):
        await cluster.start()
    assert len(refused(caplog)) == NAMED_MAX
    assert any(f"0 rewritten, {NAMED_MAX + 30} left" in str(line.__dict__.get("outcome")) for line in caplog.records)


async def test_an_object_rejected_by_a_broken_webhook_blocks_no_other(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        cluster.create(IDENTITIES, name, {"ClientID": name})
    cluster.api.refuse(500, "InternalError", "PUT", what="azureidentities/b")
    await cluster.start()
    assert [cluster.spec(IDENTITIES, name) for name in ("a", "b", "c")] == [
        {"clientID": "a"},
        {"ClientID": "b"},
        {"clientID": "c"},
    ]
    assert cluster.recorded() is None


GOOD = b'{"metadata":{"name":"good","namespace":"ns"},"spec":{"ClientID":"c"}}'
DEEP = b'{"metadata":{"name":"deep","namespace":"ns"},"spec":{"ClientID":"c","x":%s1%s}}' % (
    b"[" * TOO_DEEP_VALUE,
    b"]" * TOO_DEEP_VALUE,
)
ODD = b'{"metadata":{"name":["odd"],"namespace":"ns"},"spec":{"ClientID":"c"}}'


@pytest.mark.parametrize(
    ("lists", "named"),
    [([DEEP + b"," + GOOD, DEEP, GOOD], ["AzureIdentity ns/deep"]), ([ODD + b"," + GOOD], ["AzureIdentity /"])],
    ids=["nested too deeply", "unexpected metadata"],
)
async def test_an_unreadable_object_is_logged_and_the_others_continue(
    caplog: pytest.LogCaptureFixture, lists: list[bytes], named: list[str]
) -> None:
    server = ScriptedServer()
    server.lists += [status(404, "NotFound"), status(404, "NotFound")]
    server.lists += [Reply(b'{"metadata":{},"items":[%s]}' % items) for items in lists]
    server.lists += [Reply(b'{"metadata":{}}')] * 3
    server.others.append(Reply(GOOD))
    assert await upgrade_on(server) == [("PUT", f"/apis/{GROUP}/v1/namespaces/ns/azureidentities/good")]
    assert refused(caplog) == named
    assert any("is incomplete" in record.message for record in caplog.records)


@pytest.mark.parametrize("what", ["with_current_names", "decode_meta"])
async def test_an_unexpected_exception_ends_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """An exception for one object omits this object. Any other one leaves the upgrade to the next start."""
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
    if what == "with_current_names":
        assert cluster.spec(IDENTITIES, "good") == {"clientID": "good"}
        assert refused(caplog) == ["AzureIdentity default/bad"]
    else:
        assert any("failed unexpectedly" in record.message for record in caplog.records)


async def test_an_object_too_large_to_rewrite_is_named_and_the_others_continue(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create(IDENTITIES, "large", {"ClientID": "c", "unknown": "x" * (REWRITTEN_MAX + 1)})
    cluster.create(IDENTITIES, "small", {"ClientID": "c"})
    await cluster.start()
    assert "ClientID" in cluster.spec(IDENTITIES, "large")
    assert cluster.spec(IDENTITIES, "small") == {"clientID": "c"}
    assert cluster.recorded() is None
    assert refused(caplog) == ["AzureIdentity default/large"]
    assert any("limit is" in record.__dict__.get("reason", "") for record in caplog.records)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving() as made:
        yield made
