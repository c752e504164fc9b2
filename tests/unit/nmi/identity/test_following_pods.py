"""Watch events update the index: addresses, generations, assigned identities; named pods; and the debug page."""

import asyncio
import json
from typing import Any

import pytest

from nmi.identity.cluster_cache import SHOWN_MAX
from nmi.identity.pod_entry import PodEntry
from podidentity.kube import object_store
from podidentity.resources import ATTACHED_BY_ANNOTATION, CREATED, Pod
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.nmi.identity.cluster import ASSIGNED_KIND, DEADLINE, OTHER, Cluster, running_cluster, waking
from tests.support.nmi_objects import ADDRESS, CLIENT_ID, assigned_identity, exception, pod


async def test_objects_from_before_the_start_count_from_the_start() -> None:
    def prepare(cluster: Cluster) -> None:
        cluster.put_pod(pod(labels={"app": "web"}))
        cluster.put(assigned_identity(), exception(labels={"app": "web"}))

    async with running_cluster(prepare) as cluster:
        entry = cluster.owner(ADDRESS)
        assert (len(entry.assigned), entry.facts.exempt) == (1, "exception ns/ex")


async def test_a_pod_of_another_node_is_not_known(cluster: Cluster) -> None:
    cluster.put_pod(pod(node="node-2"))
    await cluster.with_neighbour()
    assert cluster.at(ADDRESS) is None
    assert await cluster.cluster_cache.entry_named("ns", "web") is None, "also if a request names it"


async def test_an_invalid_address_in_a_status_affects_only_its_own_pod(cluster: Cluster) -> None:
    cluster.deliver(pod("odd", uid="uid-odd", addresses=("not-an-address",)))
    await cluster.with_pod()
    assert len(cluster.index) == 1


@pytest.mark.parametrize("deletion", ["seen", "missed"])
async def test_a_successor_of_the_same_name_is_another_pod(cluster: Cluster, deletion: str) -> None:
    former = await cluster.with_pod()
    if deletion == "seen":
        cluster.delete_pod()
        cluster.put_pod(pod(addresses=("10.0.0.2",)))
    else:  # the watch was interrupted, and its list has the successor only
        cluster.deliver(pod(uid="uid-of-the-successor", addresses=("10.0.0.2",)))
    await cluster.seen(lambda: cluster.at("10.0.0.2") is not None)
    successor = cluster.at("10.0.0.2")
    assert successor is not former
    assert former.gone
    assert cluster.at(ADDRESS) is None


async def test_an_assignment_wakes_only_the_waiters_of_its_pod(cluster: Cluster) -> None:
    entry = await cluster.with_pod()
    neighbour = await cluster.with_neighbour()
    others = neighbour.record.generation
    async with waking(entry):
        cluster.put(assigned_identity(status=CREATED))
    assert [assigned.status for assigned in entry.assigned] == [CREATED]
    assert neighbour.record.generation == others


async def test_a_change_that_affects_no_decision_invalidates_nothing(cluster: Cluster) -> None:
    entry = await cluster.with_pod()
    cluster.put(assigned_identity())
    await cluster.seen(lambda: len(entry.assigned) == 1)
    before, since = entry.record.generation, entry.assigned[0].usable_since
    name = assigned_identity().metadata.name
    note = {"metadata": {"annotations": {ATTACHED_BY_ANNOTATION: "mic"}}}
    cluster.api.store.patch(ASSIGNED_KIND, name, note, "default")
    cluster.api.store.patch("pods", "web", note, "ns")
    await cluster.with_neighbour(assigned=True)
    assert entry.record.generation == before
    assert entry.assigned[0].usable_since == since


async def test_an_identity_is_usable_since_the_time_it_became_assigned(cluster: Cluster) -> None:
    entry = await cluster.with_pod()
    cluster.put(assigned_identity(status=CREATED))
    await cluster.seen(lambda: len(entry.assigned) == 1)
    cluster.clock.ahead = 30.0
    before = cluster.clock()
    cluster.put(assigned_identity())
    await cluster.seen(lambda: entry.assigned[0].usable)
    assert entry.assigned[0].usable_since >= before


async def test_without_scale_features_unlabelled_identities_are_seen_too() -> None:
    async with running_cluster(scale_features=False) as cluster:
        entry = await cluster.with_pod()
        cluster.put(assigned_identity(nodename=""))
        await cluster.seen(lambda: len(entry.assigned) == 1)


async def test_the_metrics_show_the_watches_and_the_index(cluster: Cluster) -> None:
    await cluster.with_pod()
    value = cluster.registry.get_sample_value
    assert value("aadpodidentity_nmi_index_size") == 1.0
    assert value("aadpodidentity_nmi_stale") == 0.0
    staleness = value("aadpodidentity_nmi_watch_staleness_seconds", {"watch": "pods"})
    assert staleness is not None
    assert staleness < 5.0
    assert value("aadpodidentity_nmi_watch_restarts_total", {"watch": "assigned_identities"}) == 0.0


async def two_pods(cluster: Cluster) -> None:
    cluster.put_pod(pod())
    cluster.put_pod(pod("other", addresses=(OTHER,)))
    await cluster.seen(lambda: cluster.at(ADDRESS) is not None and cluster.at(OTHER) is not None)


def failing(cluster: Cluster, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pods' handler raises for the pod `web`, from now on."""
    working: Any = getattr(cluster.cluster_cache.pods, method)

    def raising(*pods: Pod | None) -> None:
        if any(pod_ is not None and pod_.metadata.name == "web" for pod_ in pods):
            raise ValueError("a bug")
        working(*pods)

    monkeypatch.setattr(cluster.cluster_cache.pods, method, raising)


async def test_a_pod_whose_change_cannot_be_processed_is_not_served(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_pods(cluster)
    failing(cluster, "upserted", monkeypatch)
    cluster.put_pod(pod(labels={"changed": "yes"}))
    await cluster.seen(lambda: cluster.at(ADDRESS) is None)
    assert cluster.at(OTHER) is not None
    assert not cluster.suspended
    cluster.put_pod(pod("other", addresses=(OTHER,), labels={"changed": "yes"}))
    await cluster.seen(lambda: "changed" in getattr(cluster.at(OTHER), "labels", {}))


async def test_a_pod_that_cannot_be_removed_suspends_all_ready_responses_until_it_is(
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


async def test_the_state_shows_each_pod_with_the_inputs_of_its_decision(cluster: Cluster) -> None:
    uid = cluster.put_pod(pod(labels={"app": "web"}))
    cluster.put(assigned_identity(), exception(labels={"app": "web"}))
    await cluster.seen(lambda: bool((entry := cluster.at("10.0.0.1")) and entry.assigned and entry.facts.exempt))
    state = cluster.cluster_cache.state()
    assert state["pods"] == [
        {
            "pod": "ns/web",
            "uid": uid,
            "addresses": ["10.0.0.1"],
            "label": "web",
            "exempt": "exception ns/ex",
            "doubtful": False,
            "terminated": False,
            "sandbox_down": False,
            "suspended": {},
            "host_network": False,
            "identities": [{"identity": "ns/id", "binding": "id-binding", "status": "Assigned", "usable": True}],
        }
    ]
    assert (state["addresses"], state["suspended"], state["silent"], state["held"]) == (1, False, [], 0)
    assert CLIENT_ID not in json.dumps(state)


async def test_the_state_is_json_before_the_watches_have_started_too(unwatched: Cluster) -> None:
    state = json.loads(json.dumps(unwatched.cluster_cache.state(), allow_nan=False))
    assert state["watches"]["pods"] == {"silent_seconds": None, "restarts": 0, "objects": 0}
    assert sorted(state["silent"]) == ["assigned_identities", "exceptions", "pods"]


async def test_the_state_is_bounded(unwatched: Cluster) -> None:
    for number in range(SHOWN_MAX + 7):
        unwatched.deliver(pod(f"web-{number}", uid=str(number), addresses=(f"10.1.{number // 250}.{number % 250}",)))
    state = unwatched.cluster_cache.state()
    shown = state["pods"]
    assert isinstance(shown, list)
    assert (len(shown), state["pods_left_out"]) == (SHOWN_MAX, 7)


async def test_a_pod_without_an_address_is_found_by_name(cluster: Cluster) -> None:
    cluster.put_pod(pod(addresses=(), phase="Pending"))
    assert await cluster.cluster_cache.entry_named("ns", "web") is not None


async def test_the_watchs_event_ends_the_wait_for_a_name(cluster: Cluster) -> None:
    finding = asyncio.create_task(cluster.cluster_cache.entry_named("ns", "web"))
    await cluster.seen(lambda: cluster.cluster_cache.state()["parked"] == 1)
    cluster.put_pod(pod(host_network=True))
    entry = await asyncio.wait_for(finding, DEADLINE)
    assert isinstance(entry, PodEntry)
    assert entry.confirmed


async def test_a_read_finds_a_named_pod_that_the_watch_has_not_reported(unwatched: Cluster) -> None:
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
        pytest.param("..", "web", id="dots"),
        pytest.param("ns", "../secrets", id="up"),
        pytest.param("ns", "web/status", id="subresource"),
        pytest.param("", "web", id="no-namespace"),
        pytest.param("ns", "", id="no-name"),
        pytest.param("ns", "WEB", id="capitals"),
        pytest.param("ns", "web\n", id="newline"),
        pytest.param("ns", "w" * 254, id="too-long"),
        pytest.param("ns", "wéb", id="not-ascii"),
    ],
)
async def test_an_invalid_pod_name_is_not_looked_up(unwatched: Cluster, namespace: str, name: str) -> None:
    async with asyncio.timeout(3.0):  # less than a pod is waited for
        assert await unwatched.cluster_cache.entry_named(namespace, name) is None
    assert unwatched.reads() == []
    assert "error" not in str(unwatched.cluster_cache.state())
