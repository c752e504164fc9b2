"""Requests from an address without one known pod: a read finds the pod, or which of several owns the address."""

from collections.abc import Callable, Sequence
from datetime import datetime
from unittest.mock import patch

import msgspec
import pytest

from nmi.identity.decide import Wait
from nmi.identity.pod_entry import PodEntry
from nmi.identity.pods import owner_of, started_after
from nmi.identity.suspensions import RETRY_SECONDS, VERIFY_SECONDS
from nmi.node.rtnetlink import Link, Route
from podidentity.resources import ContainerState, ContainerStatus, Pod, Running, Terminated
from tests.support.nmi.identity.cluster import DEADLINE, Cluster, running_cluster
from tests.support.nmi_objects import ADDRESS, pod
from tests.support.objects import started_at
from tests.support.virtual_time import settle


def a_pod(*states: ContainerState, last: ContainerState | None = None, phase: str = "Running") -> Pod:
    made = pod(phase=phase)
    statuses = [ContainerStatus(state=state, last_state=last or ContainerState()) for state in states]
    return msgspec.structs.replace(made, status=msgspec.structs.replace(made.status, container_statuses=statuses))


def running(second: int) -> ContainerState:
    return ContainerState(running=Running(started_at=started_at(second)))


def ended(second: int) -> ContainerState:
    return ContainerState(terminated=Terminated(started_at=started_at(second)))


WAITING = ContainerState()
OLDER = a_pod(running(10))

OWNERS: dict[str, tuple[Pod, str]] = {
    "runs": (a_pod(running(11)), "other"),
    "a second container was started later": (a_pod(running(5), running(11)), "other"),
    "is being deleted": (
        msgspec.structs.replace(a_pod(running(11)), metadata=pod(deleting=True).metadata),
        "other",
    ),
    "one container has ended": (a_pod(running(11), ended(3)), "other"),
    "the same second": (a_pod(running(10)), "none"),
    "ended, and was started later": (a_pod(ended(11)), "none"),
    "finished, and was started later": (a_pod(ended(11), phase="Succeeded"), "none"),
    "waits for a restart, and was started later": (a_pod(WAITING, last=ended(11)), "none"),
    "no container has been started": (a_pod(WAITING), "none"),
    "no status of a container": (a_pod(), "none"),
    "a time that is none": (a_pod(ContainerState(running=Running(started_at="soon"))), "none"),
    "ended at an unknown time": (a_pod(ContainerState(terminated=Terminated())), "none"),
    "its sandbox is down, and was started later": (pod(sandbox=False, started=11), "none"),
    "started earlier": (a_pod(running(9)), "older"),
    "started earlier, and ended": (a_pod(ended(9)), "older"),
    "started earlier, and waits for a restart": (a_pod(WAITING, last=ended(9)), "older"),
    "started earlier, and finished": (a_pod(ended(9), phase="Failed"), "older"),
    "finished without having run": (a_pod(phase="Failed"), "older"),
}


@pytest.mark.parametrize("case", OWNERS)
def test_of_two_pods_the_last_started_one_owns_the_address_if_the_order_is_certain(case: str) -> None:
    other, owner = OWNERS[case]
    expected = {"other": other, "older": OLDER, "none": None}[owner]
    assert owner_of([OLDER, other]) is expected
    assert owner_of([other, OLDER]) is expected


def test_a_pod_listed_alone_owns_the_address_unless_it_has_finished() -> None:
    assert owner_of([]) is None
    for alone in (OLDER, a_pod(WAITING), a_pod(ended(3))):
        assert owner_of([alone]) is alone
    assert owner_of([a_pod(ended(3), phase="Succeeded")]) is None


def test_of_three_pods_the_last_started_one_owns_the_address() -> None:
    last = a_pod(running(12))
    assert owner_of([OLDER, last, a_pod(ended(11))]) is last
    assert owner_of([OLDER, last, a_pod(ended(13))]) is None


def test_only_a_running_container_counts_as_started_after_a_given_time() -> None:
    midnight = datetime.fromisoformat(started_at(0)).timestamp()
    assert started_after(a_pod(running(1)), midnight)
    assert not started_after(a_pod(running(0)), midnight)
    assert not started_after(a_pod(ended(1), WAITING), midnight)


async def test_a_read_finds_a_pod_that_the_watch_has_not_reported(unwatched: Cluster) -> None:
    uid = unwatched.put_pod(pod())
    entry = await unwatched.cluster_cache.entry_at(ADDRESS)
    assert isinstance(entry, PodEntry)
    assert entry.uid == uid
    assert entry.record.suspended
    [path] = unwatched.reads()
    assert "status.podIP%3D10.0.0.1" in path
    assert "spec.nodeName%3Dnode-1" in path
    # The watch delivers its events: the same pod, which is no longer doubtful.
    unwatched.deliver(pod(uid=uid))
    assert unwatched.at(ADDRESS) is entry
    assert not entry.doubtful


async def test_a_pod_known_from_a_read_only_does_not_keep_its_address(unwatched: Cluster) -> None:
    unwatched.put_pod(pod())
    former = await unwatched.cluster_cache.entry_at(ADDRESS)
    assert isinstance(former, PodEntry)
    # The pod ends, and another pod gets the address, before the watch delivers either event.
    unwatched.delete_pod()
    uid = unwatched.put_pod(pod("successor"))
    unwatched.deliver(pod("successor", uid=uid))
    entry = await unwatched.cluster_cache.entry_at(ADDRESS)
    assert isinstance(entry, PodEntry)
    assert entry.name == "successor"
    assert former.gone


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
        cluster.deliver_deletion(pod("former", uid="uid-former"))
        assert cluster.owner(ADDRESS).key == "ns/web", "an event determines the owner, too"
        assert former.gone


async def test_a_read_determines_the_owner_of_the_address(unwatched: Cluster) -> None:
    former = put_two_pods_at_one_address(unwatched)
    entry = await unwatched.cluster_cache.entry_at(ADDRESS)
    assert isinstance(entry, PodEntry)
    assert entry.key == "ns/web"
    # A third pod with the address causes another read.
    unwatched.deliver(pod("third", uid="uid-third"))
    assert unwatched.at(ADDRESS) is None
    assert not former.gone


@pytest.mark.parametrize(("seconds", "owner"), [(61, "ns/web"), (60, None)], ids=["later", "the same second"])
async def test_of_two_live_pods_the_one_that_started_later_has_the_address(
    unwatched: Cluster, seconds: int, owner: str | None
) -> None:
    put_two_pods_at_one_address(unwatched)
    unwatched.put_pod(pod(started=seconds))
    unwatched.put_pod(pod("former", started=60))
    await unwatched.cluster_cache.ownership_reads.find_owner(ADDRESS)
    entry = unwatched.at(ADDRESS)
    assert (entry.key if entry is not None else None) == owner


@pytest.mark.parametrize("change", ["deleted", "ended"])
async def test_a_terminating_successor_never_returns_the_address_to_the_former_owner(
    unwatched: Cluster, change: str
) -> None:
    put_two_pods_at_one_address(unwatched)
    uid = unwatched.put_pod(pod("former", started=60))
    unwatched.deliver_deletion(pod("former", uid="uid-former"))
    unwatched.deliver(pod("former", uid=uid, started=60))
    if change == "deleted":
        unwatched.put_pod(pod(started=90))
        unwatched.api.store.delete("pods", "web", "ns")
    else:
        unwatched.put_pod(a_pod(ended(90)))
    await unwatched.cluster_cache.ownership_reads.find_owner(ADDRESS)
    entry = unwatched.at(ADDRESS)
    assert entry is None or entry.key == "ns/web"
    unwatched.put_pod(pod("former", started=120))
    await unwatched.cluster_cache.ownership_reads.find_owner(ADDRESS)
    entry = unwatched.owner(ADDRESS)
    assert entry.key == "ns/former", "it has been made again since"


async def overtaken(cluster: Cluster, change: Callable[[], object]) -> bool:
    """Return whether a read about the address must be repeated, if *change* happens after its response was made."""
    list_pods = cluster.cluster_cache._reads.at_address

    async def slow(address: str, node: str) -> Sequence[Pod]:
        pods = await list_pods(address, node)
        change()
        return pods

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
async def test_a_read_that_is_older_than_an_event_determines_no_owner(unwatched: Cluster, change: str) -> None:
    former, web = await contested(unwatched)
    unwatched.cluster_cache.network_listed([Link(7, "veth7"), Route(bytes((10, 0, 0, 1)), 32, 7, 0)])
    changes: dict[str, Callable[[], object]] = {
        "third claim": lambda: unwatched.deliver(pod("third", uid="uid-third", started=95)),
        "started again": lambda: unwatched.deliver(pod("former", uid=former, started=95)),
        "evidence": lambda: unwatched.cluster_cache.network_changed([Link(7, "veth7", gone=True)]),
        "moved": lambda: unwatched.deliver(pod(uid=web, addresses=("10.0.0.9",))),
        "none": lambda: None,
    }
    again = await overtaken(unwatched, changes[change])
    entry = unwatched.at(ADDRESS)
    if change == "none":
        assert not again
        assert entry is not None
        assert entry.key == "ns/web"
    else:
        assert again
        assert entry is None or (change, entry.key) == ("moved", "ns/former"), "by the watch alone"


async def test_a_list_that_is_older_than_another_pods_claim_lifts_no_suspension(cluster: Cluster) -> None:
    """Otherwise the pod would be served again when the other one is removed, and a third one may have the address."""
    cluster.cluster_cache.network_listed([Link(7, "veth7"), Route(bytes((10, 0, 0, 1)), 32, 7, 0)])
    entry = await cluster.with_pod(assigned=True)
    cluster.cluster_cache.network_changed([Link(7, "veth7", gone=True)])
    list_pods, addresses = cluster.cluster_cache._reads.at_address, cluster.cluster_cache._addresses

    async def overtaken_list(address: str, node: str) -> Sequence[Pod]:
        pods = await list_pods(address, node)
        cluster.put_pod(pod("other"))
        await cluster.seen(lambda: len(addresses.candidates(address)) == 2)
        return pods

    with patch.object(cluster.cluster_cache._reads, "at_address", overtaken_list):
        cluster.clock.ahead += VERIFY_SECONDS
        await cluster.seen(lambda: len(addresses.candidates(ADDRESS)) == 2)
        await settle()
    cluster.delete_pod("other")
    await cluster.seen(lambda: cluster.at(ADDRESS) is entry)
    assert entry.suspended
    assert isinstance(await cluster.cluster_cache.decision_input(entry, ADDRESS), Wait)
    cluster.clock.ahead += RETRY_SECONDS[0]
    await cluster.seen(lambda: not entry.suspended)


async def test_a_read_that_is_older_than_an_event_adds_and_removes_no_pod(unwatched: Cluster) -> None:
    uid = unwatched.put_pod(pod())
    gone = pod(uid=uid)

    def is_added_and_deleted() -> None:
        unwatched.deliver(gone)
        unwatched.deliver_deletion(gone)

    assert await overtaken(unwatched, is_added_and_deleted)
    assert unwatched.at(ADDRESS) is None
    assert len(unwatched.cluster_cache.pods) == 0
    assert not await overtaken(unwatched, lambda: None)
    entry = unwatched.owner(ADDRESS)
    unwatched.delete_pod()
    assert await overtaken(unwatched, lambda: unwatched.deliver(pod("other", uid="uid-2")))
    assert not entry.gone


async def test_a_read_of_a_name_that_is_older_than_an_event_is_repeated_by_a_new_one(unwatched: Cluster) -> None:
    gone = pod(uid=unwatched.put_pod(pod()))
    get_pod = unwatched.cluster_cache._reads._get_pod

    async def slow(namespace: str, name: str) -> Pod | None:
        response = await get_pod(namespace, name)
        unwatched.delete_pod()
        unwatched.deliver(gone)
        unwatched.deliver_deletion(gone)
        return response

    with patch.object(unwatched.cluster_cache._reads, "_get_pod", slow):
        assert await unwatched.cluster_cache.ownership_reads.find_pod("ns/web")
    assert not await unwatched.cluster_cache.ownership_reads.find_pod("ns/web")
    assert len(unwatched.cluster_cache.pods) == 0


async def test_a_pod_whose_containers_restarted_contests_its_address_again(unwatched: Cluster) -> None:
    former, _ = await contested(unwatched)
    await unwatched.cluster_cache.ownership_reads.find_owner(ADDRESS)
    entry = unwatched.owner(ADDRESS)
    assert entry.key == "ns/web"
    unwatched.deliver(pod("former", uid=former, started=60, labels={"another": "label"}))
    assert unwatched.at(ADDRESS) is entry
    unwatched.deliver(pod("former", uid=former, started=95))
    assert unwatched.at(ADDRESS) is None


async def test_a_contested_address_changes_the_records_generation_so_that_no_decision_outlives_it(
    unwatched: Cluster,
) -> None:
    unwatched.deliver(pod())
    entry = unwatched.owner(ADDRESS)
    before = entry.record.generation
    unwatched.deliver(pod("other", uid="uid-2"))
    assert entry.record.generation != before
    assert not unwatched.cluster_cache.is_at(ADDRESS, entry)
