"""The type upgrade while the API server refuses its requests or does not respond."""

import asyncio

import pytest
from typing_extensions import override

from mic.app import COMPONENT
from mic.startup.type_upgrade import TRIES, TypeUpgrade, UpgradeRecord
from podidentity.kube.events import EventRecorder
from podidentity.resources import GROUP
from podidentity.version import VERSION
from tests.mic.type_upgrade.upgraded_cluster import IDENTITIES, KEY, NAME, Cluster, an_hour, at_once, old_ones, refusing
from tests.podidentity.kube.scripted import Reply, Request, ScriptedServer, status


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
    async with asyncio.timeout(30.0):
        await cluster.start(limit_seconds=0.2, pauses=an_hour)
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
    server = Unwritable()
    await server.start()
    async with server.client(f"{COMPONENT}/test", timeout_seconds=0.5) as client:
        record = UpgradeRecord(client, "ns", NAME, KEY)
        await TypeUpgrade(client, EventRecorder(client, "test", "here"), record, in_flight=1, pauses=at_once).run()
    await server.stop()
    # On a busy machine, a request can reach its time limit before the server has received it.
    sent = [(each.method, each.path) for each in server.requests if each.method != "GET"]
    assert set(sent) == {("PUT", f"/apis/{GROUP}/v1/namespaces/ns/azureidentities/o0")}
    assert len(sent) <= TRIES
    assert any("keeps failing" in each.message for each in caplog.records)
    assert any("is incomplete" in each.message for each in caplog.records)
