"""NMI reads from the API server before a grant if the index may be outdated. Excluded: unknown addresses."""

import asyncio

from nmi.identity.cluster_cache import DecisionInput
from nmi.identity.ownership_reads import GONE
from nmi.identity.pods import PodEntry
from nmi.refusal import Reason, Refusal
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.nmi.identity.cluster import DEADLINE, Cluster, running_cluster
from tests.support.nmi_objects import ADDRESS, assigned_identity, pod

POD_PATH = "/api/v1/namespaces/ns/pods/web"


async def ending(cluster: Cluster) -> PodEntry:
    """A pod with deletionTimestamp, still running."""
    entry = await cluster.with_pod(assigned=True)
    cluster.api.store.delete("pods", "web", "ns")
    await cluster.seen(lambda: entry.ending)
    return entry


async def confirm_all_watches(cluster: Cluster) -> None:
    """Receive a message of every watch now."""
    async with asyncio.timeout(DEADLINE):
        await cluster.api.until_watched(count=3)
    cluster.api.send_bookmarks()
    watches = cluster.cluster_cache.watches.by_name.values()
    await cluster.seen(lambda: all(each.staleness_seconds() == 0.0 for each in watches))


def unavailable(_request: object) -> StatusError:
    return StatusError(503, "ServiceUnavailable", "down")


async def test_a_pod_without_doubts_is_not_read(cluster: Cluster) -> None:
    entry = await cluster.with_pod(assigned=True)
    decision_input = await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert decision_input == DecisionInput(entry.facts, entry.assigned, certain=True)
    assert cluster.reads() == []


async def test_a_pod_being_deleted_is_read_once_a_second_and_never_cached(cluster: Cluster) -> None:
    entry = await ending(cluster)
    assert entry.record.suspended
    standings = await asyncio.gather(*(cluster.cluster_cache.decision_input(entry, ADDRESS) for _ in range(20)))
    assert {type(each) for each in standings} == {DecisionInput}
    assert not any(each.certain for each in standings if isinstance(each, DecisionInput))
    assert cluster.reads() == [POD_PATH]
    await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert cluster.reads() == [POD_PATH]
    cluster.clock.ahead += 1.0
    await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert cluster.reads() == [POD_PATH] * 2


async def test_a_pod_that_a_read_does_not_find_gets_no_answer(cluster: Cluster) -> None:
    ghost = pod("ghost", uid="uid-ghost", addresses=("10.0.0.2",), deleting=True)
    cluster.deliver(ghost)
    entry = cluster.owner("10.0.0.2")
    assert await cluster.cluster_cache.decision_input(entry, "10.0.0.2") is GONE
    assert cluster.at("10.0.0.2") is None
    assert entry.gone


async def test_another_pod_of_the_same_name_found_by_the_read_is_not_used(unwatched: Cluster) -> None:
    unwatched.deliver(pod(uid="uid-former", deleting=True))
    unwatched.put_pod(pod())
    entry = unwatched.owner(ADDRESS)
    assert await unwatched.cluster_cache.decision_input(entry, ADDRESS) is GONE
    assert entry.gone


async def test_a_pod_that_has_left_the_address_is_refused_at_it(unwatched: Cluster) -> None:
    uid = unwatched.put_pod(pod(addresses=("10.0.0.7",)))
    unwatched.deliver(pod(uid=uid))
    entry = unwatched.owner(ADDRESS)
    assert await unwatched.cluster_cache.decision_input(entry, ADDRESS) is GONE


async def test_the_label_from_the_read_counts_if_the_watch_is_behind(unwatched: Cluster) -> None:
    uid = unwatched.put_pod(pod(label="relabelled"))
    unwatched.deliver(pod(uid=uid))
    entry = unwatched.owner(ADDRESS)
    decision_input = await unwatched.cluster_cache.decision_input(entry, ADDRESS)
    assert isinstance(decision_input, DecisionInput)
    assert decision_input.pod.label == "relabelled"


async def test_a_watch_event_after_a_read_counts_within_the_second_that_the_read_is_valid(cluster: Cluster) -> None:
    entry = await ending(cluster)
    assert isinstance(await cluster.cluster_cache.decision_input(entry, ADDRESS), DecisionInput)
    cluster.api.store.patch("pods", "web", {"metadata": {"labels": {"aadpodidbinding": "other"}}}, "ns")
    await cluster.seen(lambda: entry.facts.label == "other")
    decision_input = await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert isinstance(decision_input, DecisionInput)
    assert decision_input.pod.label == "other"
    assert cluster.reads() == [POD_PATH] * 2


async def test_a_silent_watch_suspends_ready_answers_until_its_next_event(cluster: Cluster) -> None:
    entry = await cluster.with_pod(assigned=True)
    await confirm_all_watches(cluster)
    cluster.clock.ahead += 94.0
    cluster.cluster_cache.check()
    states = [cluster.suspended]
    cluster.clock.ahead += 2.0
    cluster.cluster_cache.check()
    states.append(cluster.suspended)
    assert states == [False, True]
    decision_input = await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert isinstance(decision_input, DecisionInput)
    assert not decision_input.certain
    assert POD_PATH in cluster.reads()
    cluster.api.send_bookmarks()
    await cluster.seen(lambda: not cluster.cluster_cache.stale())
    cluster.cluster_cache.check()
    assert not cluster.suspended


async def test_an_identity_revoked_during_a_silent_watch_is_not_granted(unwatched: Cluster) -> None:
    uid = unwatched.put_pod(pod())
    unwatched.deliver(pod(uid=uid), assigned_identity("revoked"))
    unwatched.put(assigned_identity("still-there"), assigned_identity("another-pods", pod_name="other"))
    entry = unwatched.owner(ADDRESS)
    decision_input = await unwatched.cluster_cache.decision_input(entry, ADDRESS)
    assert isinstance(decision_input, DecisionInput)
    assert [each.identity.metadata.name for each in decision_input.assigned] == ["still-there"]


async def test_without_a_response_to_the_read_serving_continues_and_a_metric_counts_it(cluster: Cluster) -> None:
    entry = await ending(cluster)
    cluster.api.intercept = unavailable
    decision_input = await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert decision_input == DecisionInput(entry.facts, entry.assigned, certain=False)
    assert cluster.registry.get_sample_value("aadpodidentity_nmi_unverified_grants_total") == 1.0
    errors, labels = "aadpodidentity_kubernetes_api_operations_errors_count", {"operation_type": "get_pod_list"}
    assert cluster.registry.get_sample_value(errors, labels) == 1.0
    # No read for a few seconds, and then another one.
    asked = len(cluster.reads())
    cluster.clock.ahead += 2.0
    await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert len(cluster.reads()) == asked
    cluster.api.intercept = None
    cluster.clock.ahead += 4.0
    await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert len(cluster.reads()) == asked + 1


async def test_without_a_response_to_the_read_strict_mode_refuses() -> None:
    async with running_cluster(refuse_stale=True) as cluster:
        entry = await ending(cluster)
        assert isinstance(await cluster.cluster_cache.decision_input(entry, ADDRESS), DecisionInput)
        cluster.clock.ahead += 1.0
        cluster.api.intercept = unavailable
        refusal = await cluster.cluster_cache.decision_input(entry, ADDRESS)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.UPSTREAM_UNAVAILABLE


async def test_a_waiter_that_gives_up_does_not_cancel_the_shared_read(cluster: Cluster) -> None:
    entry = await ending(cluster)
    cluster.api.pause()
    first = asyncio.create_task(cluster.cluster_cache.decision_input(entry, ADDRESS))
    second = asyncio.create_task(cluster.cluster_cache.decision_input(entry, ADDRESS))
    await cluster.seen(lambda: bool(cluster.reads()))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    cluster.api.resume()
    assert isinstance(await second, DecisionInput)
    assert cluster.reads() == [POD_PATH]
