"""The ConfigMap that records the type upgrade, so that it runs once."""

import logging
from pathlib import Path

import pytest

from mic.app import COMPONENT
from mic.startup.type_upgrade import TRIES, TypeUpgrade, UpgradeRecord
from podidentity.kube.events import EventRecorder
from podidentity.resources import GROUP
from podidentity.version import VERSION
from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.type_upgrade.upgraded_cluster import (
    IDENTITIES,
    KEY,
    NAME,
    Cluster,
    at_once,
    old_ones,
    serving,
    write_before_update,
)
from tests.podidentity.kube.scripted import Reply, ScriptedServer


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
    async with serving(Path(__file__).parents[1] / "reference") as cluster:
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
    await server.start()
    server.lists += [Reply(b'{"data":%s%s}' % (b"[" * 100_000, b"]" * 100_000)), *[Reply(b"<html>")] * (TRIES - 1)]
    async with server.client(f"{COMPONENT}/test") as client:
        record = UpgradeRecord(client, "ns", NAME, KEY)
        await TypeUpgrade(client, EventRecorder(client, "test", "here"), record, in_flight=1, pauses=at_once).run()
    await server.stop()
    assert len(server.requests) == TRIES
    assert any("cannot be read" in each.message for each in caplog.records)
