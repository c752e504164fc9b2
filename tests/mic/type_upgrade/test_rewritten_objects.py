"""Objects that the type upgrade rewrites, and those that it leaves as they are."""

import logging

import pytest

from podidentity.resources import GROUP
from podidentity.version import VERSION
from tests.mic.type_upgrade.upgraded_cluster import ASSIGNED, BINDINGS, EXCEPTIONS, IDENTITIES, KEY, Cluster, old_ones


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
