"""The type upgrade while the API server refuses requests or is silent, or other clients write the same objects."""

import pytest
from typing_extensions import override

from mic.startup.type_upgrade import TRIES
from podidentity.kube.backoff import Backoff
from podidentity.resources import GROUP
from podidentity.version import VERSION
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.mic.type_upgrade.upgraded_cluster import (
    IDENTITIES,
    KEY,
    Cluster,
    old_ones,
    refusing,
    upgrade_on,
    write_before_update,
)
from tests.support.podidentity.kube.scripted import Reply, Request, ScriptedServer, status


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


async def test_a_server_that_never_responds_delays_the_start_by_the_limit_only(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    refusing(cluster, 429, "TooManyRequests", times=100_000)
    await cluster.start(limit_seconds=0.2, pauses=lambda: Backoff(lambda: 1.0, first_seconds=3600.0))
    assert any("takes too long" in each.message for each in caplog.records)


class Unwritable(ScriptedServer):
    """Answers each read, also one that is sent again after its time limit, and no write."""

    @override
    def _reply(self, request: Request) -> Reply | None:
        if request.method != "GET":
            return None
        if not request.path.startswith(f"/apis/{GROUP}/"):
            return status(404, "NotFound")
        named = range(3) if request.path.endswith("/azureidentities") else ()
        items = [{"metadata": {"name": f"o{each}", "namespace": "ns"}, "spec": {"ClientID": "c"}} for each in named]
        return Reply({"metadata": {}, "items": items})


async def test_a_server_that_becomes_unreachable_is_not_called_for_each_object(
    caplog: pytest.LogCaptureFixture,
) -> None:
    written = await upgrade_on(Unwritable(), timeout_seconds=0.5)
    assert set(written) == {("PUT", f"/apis/{GROUP}/v1/namespaces/ns/azureidentities/o0")}
    assert len(written) <= TRIES
    assert any("keeps failing" in each.message for each in caplog.records)
    assert any("is incomplete" in each.message for each in caplog.records)


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
