"""Requests from an address without a known pod: they wait for one lookup and are refused. Contested addresses, too."""

import asyncio
from collections.abc import Callable, Sequence
from unittest.mock import patch

import msgspec
import pytest

from nmi.identity.pods import PodEntry
from nmi.node.rtnetlink import Link, Route
from podidentity.resources import ContainerState, ContainerStatus, Pod, Terminated
from tests.nmi.identity.cluster import DEADLINE, Cluster, running_cluster
from tests.nmi.identity.lookup_bench import LookupBench
from tests.support.nmi_objects import ADDRESS, pod
from tests.support.objects import started_at
from tests.virtual_time import now, settle


async def test_a_known_address_is_found_without_a_wait() -> None:
    lookup_bench, entry = LookupBench(), PodEntry(pod())
    lookup_bench.arrive(ADDRESS, entry)
    before = now()
    assert await lookup_bench.find() is entry
    assert now() == before


async def test_the_watchs_event_ends_all_waits_for_its_address_without_a_read() -> None:
    lookup_bench, entry = LookupBench(), PodEntry(pod())
    waiters = [asyncio.create_task(lookup_bench.find()) for _ in range(10)]
    await settle()
    await asyncio.sleep(0.2)
    lookup_bench.arrive(ADDRESS, entry)
    assert await asyncio.gather(*waiters) == [entry] * 10
    await asyncio.sleep(1.0)
    assert lookup_bench.reads == []
    assert lookup_bench.waits.waiting == 0


async def test_after_300_ms_the_address_is_read_once() -> None:
    lookup_bench, entry = LookupBench(), PodEntry(pod())
    lookup_bench.found_by_read[ADDRESS] = entry
    before = now()
    assert await asyncio.gather(*(lookup_bench.find() for _ in range(10))) == [entry] * 10
    assert [(round(when - before, 3), address) for when, address in lookup_bench.reads] == [(0.3, ADDRESS)]


async def test_a_wait_for_an_unknown_address_ends_after_five_seconds() -> None:
    lookup_bench = LookupBench()
    before = now()
    assert await lookup_bench.find() is None
    assert now() - before == 5.0
    assert len(lookup_bench.reads) == 1


async def test_an_unknown_address_is_remembered_for_a_second() -> None:
    lookup_bench, entry = LookupBench(), PodEntry(pod())
    assert await lookup_bench.find() is None
    before = now()
    assert await lookup_bench.find() is None
    assert now() == before
    lookup_bench.arrive(ADDRESS, entry)
    assert await lookup_bench.find() is entry
    del lookup_bench.entries[ADDRESS]
    await asyncio.sleep(1.0)
    assert await lookup_bench.find() is None
    assert now() - before == 6.0


async def test_at_most_two_reads_are_sent_per_second() -> None:
    lookup_bench = LookupBench()
    before = now()
    await asyncio.gather(*(lookup_bench.find(f"10.0.1.{n}") for n in range(20)))
    times = [when - before for when, _ in lookup_bench.reads]
    assert len(times) == 10
    for start in times:
        assert sum(start <= when < start + 1.0 for when in times) <= 2


async def test_a_read_that_is_older_than_an_event_is_repeated_at_the_same_rate() -> None:
    lookup_bench = LookupBench()
    lookup_bench.crossed = 3
    before = now()
    assert await lookup_bench.find() is None
    assert [round(when - before, 1) for when, _ in lookup_bench.reads] == [0.3, 0.8, 1.3, 1.8]


async def test_a_read_is_cancelled_with_its_last_waiter() -> None:
    lookup_bench = LookupBench()
    waiter = asyncio.create_task(lookup_bench.find())
    await asyncio.sleep(0.1)
    waiter.cancel()
    await asyncio.sleep(1.0)
    assert lookup_bench.reads == []
    await lookup_bench.waits.aclose()


async def test_a_read_finds_a_pod_that_the_watch_has_not_reported() -> None:
    async with running_cluster(watching=False) as cluster:
        uid = cluster.put_pod(pod())
        entry = await cluster.cluster_cache.entry_at(ADDRESS)
        assert isinstance(entry, PodEntry)
        assert entry.uid == uid
        assert entry.record.suspended
        [path] = cluster.reads()
        assert "status.podIP%3D10.0.0.1" in path
        assert "spec.nodeName%3Dnode-1" in path
        # The watch delivers its events: the same pod, which is no longer doubtful.
        cluster.deliver(pod(uid=uid))
        assert cluster.at(ADDRESS) is entry
        assert not entry.doubtful


async def test_a_pod_known_from_a_read_only_does_not_keep_its_address() -> None:
    async with running_cluster(watching=False) as cluster:
        cluster.put_pod(pod())
        former = await cluster.cluster_cache.entry_at(ADDRESS)
        assert isinstance(former, PodEntry)
        # The pod ends, and another pod gets the address, before the watch delivers either event.
        cluster.delete_pod()
        uid = cluster.put_pod(pod("successor"))
        cluster.deliver(pod("successor", uid=uid))
        entry = await cluster.cluster_cache.entry_at(ADDRESS)
        assert isinstance(entry, PodEntry)
        assert entry.name == "successor"
        assert former.gone


async def test_a_read_never_finds_a_pod_whose_address_is_not_its_own() -> None:
    async with running_cluster(watching=False, park_seconds=DEADLINE) as cluster:
        cluster.put_pod(pod(host_network=True))
        cluster.put_pod(pod("finished", phase="Succeeded"))
        await cluster.finds_nothing(cluster.cluster_cache.entry_at(ADDRESS))
        assert len(cluster.reads()) == 1


async def test_an_api_server_that_does_not_answer_leaves_the_address_unknown() -> None:
    async with running_cluster(watching=False, park_seconds=0.6) as cluster:
        cluster.put_pod(pod())
        cluster.api.pause()
        assert await cluster.cluster_cache.entry_at(ADDRESS) is None
        cluster.api.resume()


def put_two_pods_at_one_address(cluster: Cluster) -> PodEntry:
    """The address belongs to an existing pod, and to a deleted one whose deletion the watch has not reported yet."""
    uid = cluster.put_pod(pod())
    cluster.deliver(pod("former", uid="uid-former"))
    former = cluster.owner(ADDRESS)
    cluster.deliver(pod(uid=uid))
    return former


async def test_an_address_with_two_live_pods_finds_neither() -> None:
    async with running_cluster(watching=False, park_seconds=DEADLINE) as cluster:
        former = put_two_pods_at_one_address(cluster)
        assert cluster.at(ADDRESS) is None
        assert not former.gone
        cluster.put_pod(pod("former"))
        await cluster.finds_nothing(cluster.cluster_cache.entry_at(ADDRESS))
        assert cluster.at(ADDRESS) is None


async def test_a_read_determines_the_owner_of_the_address() -> None:
    async with running_cluster(watching=False) as cluster:
        former = put_two_pods_at_one_address(cluster)
        entry = await cluster.cluster_cache.entry_at(ADDRESS)
        assert isinstance(entry, PodEntry)
        assert entry.key == "ns/web"
        # A third pod with the address causes another read.
        cluster.deliver(pod("third", uid="uid-third"))
        assert cluster.at(ADDRESS) is None
        assert not former.gone


async def both_listed(cluster: Cluster, web: int, former: int) -> PodEntry | None:
    """The pod that a read gives the address, where both pods are listed; when each was started, in seconds."""
    put_two_pods_at_one_address(cluster)
    cluster.put_pod(pod(started=web))
    cluster.put_pod(pod("former", started=former))
    await cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
    return cluster.at(ADDRESS)


async def test_of_two_live_pods_the_one_that_started_later_has_the_address() -> None:
    async with running_cluster(watching=False) as cluster:
        entry = await both_listed(cluster, web=61, former=60)
        assert entry is not None
        assert entry.key == "ns/web"


async def test_of_two_pods_that_started_in_the_same_second_neither_has_the_address() -> None:
    async with running_cluster(watching=False) as cluster:
        assert await both_listed(cluster, web=60, former=60) is None


@pytest.mark.parametrize("change", ["deleted", "ended"])
async def test_a_terminating_successor_never_returns_the_address_to_the_former_owner(change: str) -> None:
    async with running_cluster(watching=False) as cluster:
        put_two_pods_at_one_address(cluster)
        uid = cluster.put_pod(pod("former", started=60))
        cluster.deliver_deletion(pod("former", uid="uid-former"))
        cluster.deliver(pod("former", uid=uid, started=60))
        if change == "deleted":
            cluster.put_pod(pod(started=90))
            cluster.api.store.delete("pods", "web", "ns")
        else:
            cluster.put_pod(ended(pod(), 90))
        await cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
        entry = cluster.at(ADDRESS)
        assert entry is None or entry.key == "ns/web"
        cluster.put_pod(pod("former", started=120))
        await cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
        entry = cluster.owner(ADDRESS)
        assert entry.key == "ns/former", "it has been made again since"


def ended(of: Pod, second: int) -> Pod:
    """Its only container has terminated; it was started then."""
    state = ContainerState(terminated=Terminated(started_at=started_at(second)))
    status = msgspec.structs.replace(of.status, container_statuses=[ContainerStatus(state=state)])
    return msgspec.structs.replace(of, status=status)


async def overtaken(cluster: Cluster, change: Callable[[], object]) -> bool:
    """Return whether a read about the address must be repeated, if *change* happens after its response was made."""
    list_pods = cluster.cluster_cache._reads.at_address

    async def slow(address: str, node: str) -> Sequence[Pod]:
        answer = await list_pods(address, node)
        change()
        return answer

    with patch.object(cluster.cluster_cache._reads, "at_address", slow):
        return await cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)


async def contested(cluster: Cluster) -> tuple[str, str]:
    """Both pods are listed, `web` as the later one; the uids of both."""
    uids = {}
    for name, second in (("former", 60), ("web", 90)):
        uids[name] = cluster.put_pod(pod(name, started=second))
        cluster.deliver(pod(name, uid=uids[name], started=second))
    return uids["former"], uids["web"]


@pytest.mark.parametrize("change", ["third claim", "started again", "evidence", "moved", "none"])
async def test_a_read_that_is_older_than_an_event_determines_no_owner(change: str) -> None:
    async with running_cluster(watching=False) as cluster:
        former, web = await contested(cluster)
        cluster.cluster_cache.network_listed([Link(7, "veth7"), Route(bytes((10, 0, 0, 1)), 32, 7, 0)])
        changes: dict[str, Callable[[], object]] = {
            "third claim": lambda: cluster.deliver(pod("third", uid="uid-third", started=95)),
            "started again": lambda: cluster.deliver(pod("former", uid=former, started=95)),
            "evidence": lambda: cluster.cluster_cache.network_changed([Link(7, "veth7", gone=True)]),
            "moved": lambda: cluster.deliver(pod(uid=web, addresses=("10.0.0.9",))),
            "none": lambda: None,
        }
        again = await overtaken(cluster, changes[change])
        entry = cluster.at(ADDRESS)
        if change == "none":
            assert not again
            assert entry is not None
            assert entry.key == "ns/web"
        else:
            assert again
            assert entry is None or (change, entry.key) == ("moved", "ns/former"), "by the watch alone"


async def test_a_read_that_is_older_than_an_event_adds_and_removes_no_pod() -> None:
    async with running_cluster(watching=False) as cluster:
        uid = cluster.put_pod(pod())
        gone = pod(uid=uid)

        def is_added_and_deleted() -> None:
            cluster.deliver(gone)
            cluster.deliver_deletion(gone)

        assert await overtaken(cluster, is_added_and_deleted)
        assert cluster.at(ADDRESS) is None
        assert len(cluster.cluster_cache.pods) == 0
        assert not await overtaken(cluster, lambda: None)
        entry = cluster.owner(ADDRESS)
        cluster.delete_pod()
        assert await overtaken(cluster, lambda: cluster.deliver(pod("other", uid="uid-2")))
        assert not entry.gone


async def test_a_pod_whose_containers_restarted_contests_its_address_again() -> None:
    async with running_cluster(watching=False) as cluster:
        former, _ = await contested(cluster)
        await cluster.cluster_cache.ownership_reads.find_owner(ADDRESS)
        entry = cluster.owner(ADDRESS)
        assert entry.key == "ns/web"
        cluster.deliver(pod("former", uid=former, started=60, labels={"another": "label"}))
        assert cluster.at(ADDRESS) is entry
        cluster.deliver(pod("former", uid=former, started=95))
        assert cluster.at(ADDRESS) is None


async def test_an_event_of_the_watch_determines_the_owner_too() -> None:
    async with running_cluster(watching=False) as cluster:
        former = put_two_pods_at_one_address(cluster)
        cluster.deliver_deletion(pod("former", uid="uid-former"))
        entry = cluster.owner(ADDRESS)
        assert entry.key == "ns/web"
        assert former.gone


async def test_a_contested_address_changes_the_records_generation_so_that_no_decision_outlives_it() -> None:
    async with running_cluster(watching=False) as cluster:
        cluster.deliver(pod())
        entry = cluster.owner(ADDRESS)
        before = entry.record.generation
        cluster.deliver(pod("other", uid="uid-2"))
        assert entry.record.generation != before
        assert not cluster.cluster_cache.is_at(ADDRESS, entry)
