"""The type upgrade while other clients write the same objects."""

from mic.startup.type_upgrade import TRIES
from podidentity.version import VERSION
from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.type_upgrade.upgraded_cluster import IDENTITIES, KEY, Cluster, write_before_update


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
