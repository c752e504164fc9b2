"""An exception in the handling of one object ends neither NMI nor the service of other pods, and grants nothing old."""

from typing import Any

import pytest

from podidentity.kube import object_store
from podidentity.resources import Pod
from tests.nmi.identity.cluster import Cluster, running_cluster
from tests.support.nmi_objects import pod

ADDRESS, OTHER = "10.0.0.1", "10.0.0.2"


async def two_pods(cluster: Cluster) -> None:
    cluster.put_pod(pod())
    cluster.put_pod(pod("other", addresses=(OTHER,)))
    await cluster.seen(lambda: cluster.at(ADDRESS) is not None and cluster.at(OTHER) is not None)


def failing(cluster: Cluster, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pods' handler raises for the pod `web`, from now on."""
    working: Any = getattr(cluster.cluster_cache.pods, method)

    def raising(*pods: Pod | None) -> None:
        if any(each is not None and each.metadata.name == "web" for each in pods):
            raise ValueError("a bug")
        working(*pods)

    monkeypatch.setattr(cluster.cluster_cache.pods, method, raising)


async def test_a_pod_whose_change_cannot_be_processed_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_cluster() as cluster:
        await two_pods(cluster)
        failing(cluster, "upserted", monkeypatch)
        cluster.put_pod(pod(labels={"changed": "yes"}))
        await cluster.seen(lambda: cluster.at(ADDRESS) is None)
        assert cluster.at(OTHER) is not None
        assert not cluster.suspended
        cluster.put_pod(pod("other", addresses=(OTHER,), labels={"changed": "yes"}))
        await cluster.seen(lambda: "changed" in getattr(cluster.at(OTHER), "labels", {}))


async def test_a_pod_that_cannot_be_removed_suspends_all_ready_answers_until_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_store, "DOUBT_SECONDS", 0.05)
    async with running_cluster(random=lambda: 0.0) as cluster:
        await two_pods(cluster)
        with monkeypatch.context() as broken:
            failing(cluster, "deleted", broken)
            cluster.delete_pod()
            await cluster.seen(lambda: cluster.cluster_cache.silent() == ["pods"])
            assert cluster.suspended
            lists = cluster.cluster_cache.watches.by_name["pods"].lists
            await cluster.seen(lambda: cluster.cluster_cache.watches.by_name["pods"].lists > lists)
            assert cluster.suspended
        await cluster.seen(lambda: not cluster.suspended)
        assert cluster.at(ADDRESS) is None
        assert cluster.at(OTHER) is not None
