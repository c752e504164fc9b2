"""Pods that a process of the node names, also on the host's network: found by name, never by address."""

import asyncio

import pytest

from nmi.identity.pods import PodEntry
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.nmi.identity.cluster import DEADLINE, Cluster, running_cluster
from tests.support.nmi_objects import ADDRESS, assigned_identity, pod


async def test_a_host_network_pod_is_found_by_name_and_never_by_address(cluster: Cluster) -> None:
    cluster.put_pod(pod(host_network=True))
    cluster.put(assigned_identity())
    entry = await cluster.cluster_cache.entry_named("ns", "web")
    assert isinstance(entry, PodEntry)
    await cluster.seen(lambda: len(entry.assigned) == 1 and entry.pod.addresses == (ADDRESS,))
    assert (entry.addresses, cluster.at(ADDRESS), len(cluster.index)) == ((), None, 0)
    # A change of its status does not add it to the index.
    cluster.put_pod(pod(host_network=True, addresses=(ADDRESS, "10.0.0.2"), labels={"a": "b"}))
    await cluster.seen(lambda: entry.pod.addresses == (ADDRESS, "10.0.0.2"))
    assert entry.labels.get("a") == "b"
    assert (entry.addresses, len(cluster.index)) == ((), 0)


async def test_another_pod_at_the_nodes_address_does_not_contest_it(unwatched: Cluster) -> None:
    unwatched.deliver(pod("host", uid="uid-h", host_network=True), pod())
    entry = unwatched.owner(ADDRESS)
    assert entry.name == "web"


async def test_a_pod_with_an_address_is_found_by_name_too(cluster: Cluster) -> None:
    cluster.put_pod(pod())
    await cluster.seen(lambda: cluster.at(ADDRESS) is not None)
    assert await cluster.cluster_cache.entry_named("ns", "web") is cluster.at(ADDRESS)


async def test_a_pod_without_an_address_is_found_by_name(cluster: Cluster) -> None:
    cluster.put_pod(pod(addresses=(), phase="Pending"))
    assert await cluster.cluster_cache.entry_named("ns", "web") is not None


async def test_a_finished_pod_is_not_found() -> None:
    async with running_cluster(park_seconds=0.5) as cluster:
        cluster.put_pod(pod(host_network=True))
        await cluster.seen(lambda: cluster.cluster_cache.pods.get("ns", "web") is not None)
        entry = await cluster.cluster_cache.entry_named("ns", "web")
        assert isinstance(entry, PodEntry)
        cluster.put_pod(pod(host_network=True, phase="Succeeded"))
        await cluster.seen(lambda: entry.gone)
        assert await cluster.cluster_cache.entry_named("ns", "web") is None


async def test_the_watchs_event_ends_the_wait_for_a_name(cluster: Cluster) -> None:
    finding = asyncio.create_task(cluster.cluster_cache.entry_named("ns", "web"))
    await cluster.seen(lambda: cluster.cluster_cache.state()["parked"] == 1)
    cluster.put_pod(pod(host_network=True))
    entry = await asyncio.wait_for(finding, DEADLINE)
    assert isinstance(entry, PodEntry)
    assert entry.confirmed


async def test_a_read_finds_a_pod_that_the_watch_has_not_reported(unwatched: Cluster) -> None:
    unwatched.put_pod(pod(host_network=True))
    entry = await unwatched.cluster_cache.entry_named("ns", "web")
    assert isinstance(entry, PodEntry)
    assert entry.doubtful
    assert unwatched.reads() == ["/api/v1/namespaces/ns/pods/web"]


@pytest.mark.parametrize("elsewhere", ["another-node", "unanswered", "absent"])
async def test_no_other_pod_is_found(elsewhere: str) -> None:
    async with running_cluster(watching=False, park_seconds=DEADLINE) as cluster:
        if elsewhere == "another-node":
            on_another_node(cluster)
        elif elsewhere == "unanswered":
            cluster.put_pod(pod(host_network=True))
            cluster.api.intercept = lambda _: StatusError(503, "ServiceUnavailable", "down")
        await cluster.finds_nothing(cluster.cluster_cache.entry_named("ns", "web"))
        assert len(cluster.reads()) == 1


def on_another_node(cluster: Cluster) -> None:
    document = {
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"nodeName": "node-2", "containers": [{"name": "c", "image": "i"}]},
    }
    cluster.api.store.create("pods", document, "ns")


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("..", "web"),
        ("ns", "../secrets"),
        ("ns", "web/status"),
        ("", "web"),
        ("ns", ""),
        ("ns", "WEB"),
        ("ns", "web\n"),
        ("ns", "w" * 254),
        ("ns", "wéb"),
    ],
    ids=["dots", "up", "subresource", "no-namespace", "no-name", "capitals", "newline", "too-long", "not-ascii"],
)
async def test_an_invalid_pod_name_is_not_looked_up(unwatched: Cluster, namespace: str, name: str) -> None:
    async with asyncio.timeout(3.0):  # less than a pod is waited for
        assert await unwatched.cluster_cache.entry_named(namespace, name) is None
    assert unwatched.reads() == []
    assert "error" not in str(unwatched.cluster_cache.state())
