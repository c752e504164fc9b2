"""Objects that the type upgrade rewrites, the record by which it runs once, and the permissions that it needs."""

import json
import logging

import pytest

from mic.app import COMPONENT
from mic.startup.type_upgrade import TRIES
from podidentity import resources
from podidentity.resources import GROUP
from podidentity.version import VERSION
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.checkout import ROOT
from tests.support.memory_api import MemoryApi
from tests.support.mic.type_upgrade.upgraded_cluster import (
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
from tests.support.podidentity.kube.scripted import Reply, ScriptedServer


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


async def test_metadata_and_foreign_fields_are_unchanged(cluster: Cluster) -> None:
    words = {"annotations": {"ClientID": "a"}, "labels": {"Selector": "l"}, "finalizers": ["example.com/theirs"]}
    cluster.create(IDENTITIES, "demo", {"ClientID": "c", "Own": {"ClientID": "x"}}, **words)
    before = cluster.api.store.get(IDENTITIES, "demo", "default")["metadata"]
    await cluster.start()
    after = cluster.api.store.get(IDENTITIES, "demo", "default")["metadata"]
    assert cluster.spec(IDENTITIES) == {"clientID": "c", "Own": {"ClientID": "x"}}
    assert {name: after[name] for name in words} == words
    assert (after["uid"], after["creationTimestamp"]) == (before["uid"], before["creationTimestamp"])


async def test_many_objects_are_read_in_pages(cluster: Cluster) -> None:
    for number in range(1100):
        cluster.create(BINDINGS, f"b{number}", {"Selector": str(number)})
    await cluster.start(in_flight=20)
    lists = [each.path for each in cluster.api.requests if f"{GROUP}/v1/azureidentitybindings?" in each.path]
    assert len(lists) == 3
    assert all("limit=500" in path for path in lists)
    assert {each["spec"]["selector"] for each in cluster.api.store.list(BINDINGS)} == {str(n) for n in range(1100)}


async def test_a_kind_that_is_not_installed_has_nothing_to_upgrade(cluster: Cluster) -> None:
    cluster.create(IDENTITIES, "demo", {"ClientID": "c"})
    cluster.api.store.delete("customresourcedefinitions.apiextensions.k8s.io", EXCEPTIONS)
    await cluster.start()
    assert cluster.spec(IDENTITIES) == {"clientID": "c"}
    assert cluster.recorded() == {KEY: VERSION}


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


async def test_kinds_whose_definitions_drop_old_field_names_are_logged_once_and_not_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(ROOT / "tests" / "support" / "mic" / "reference") as cluster:
        with caplog.at_level(logging.INFO, "mic.startup.type_upgrade"):
            await cluster.start()
            await cluster.start()
        assert cluster.asked("GET", f"{GROUP}/v1/") == 0
        assert cluster.recorded() == {KEY: VERSION}
    assert sum("drop fields" in each.message for each in caplog.records) == 1


async def test_other_keys_of_the_config_map_are_unchanged(cluster: Cluster) -> None:
    metadata = {"name": NAME, "namespace": "default", "labels": {"app": "mic"}}
    cluster.api.store.create("configmaps", {"metadata": metadata, "data": {"other": "1"}, "binaryData": {"b": "AA=="}})
    await cluster.start()
    stored = cluster.api.store.get("configmaps", NAME, "default")
    assert stored["data"] == {"other": "1", KEY: VERSION}
    assert stored["binaryData"] == {"b": "AA=="}
    assert stored["metadata"]["labels"] == {"app": "mic"}


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


async def test_an_unreadable_record_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server = ScriptedServer()
    server.lists += [Reply(b'{"data":%s%s}' % (b"[" * 100_000, b"]" * 100_000)), *[Reply(b"<html>")] * (TRIES - 1)]
    assert await upgrade_on(server) == []
    assert len(server.requests) == TRIES
    assert any("cannot be read" in each.message for each in caplog.records)


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


async def test_list_and_update_suffice_for_objects_and_get_create_update_for_the_record(
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
    assert [each.message for each in caplog.records] == []
    assert cluster.recorded() == {KEY: VERSION}
    assert cluster.spec(IDENTITIES) == {"type": 0, "resourceID": "r", "clientID": "c"}
    assert cluster.spec(BINDINGS) == {"azureIdentity": "demo", "selector": "demo"}
    assert cluster.spec(EXCEPTIONS) == {"podLabels": {"app": "changed"}}
