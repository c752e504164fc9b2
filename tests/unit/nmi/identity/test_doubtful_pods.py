"""NMI reads from the API server before a grant if the index may be outdated: by a doubtful pod, or a silent watch."""

import asyncio
import gc
from typing import Any, cast

import pytest

from nmi.identity import verification_reads as module
from nmi.identity.cluster_cache import DecisionInput
from nmi.identity.ownership_reads import GONE
from nmi.identity.pod_entry import PodEntry
from nmi.identity.verification_reads import UnansweredError, VerificationReads
from nmi.refusal import Reason, Refusal
from podidentity.kube.client import Client
from podidentity.kube.errors import MALFORMED, NoResponse, ServerError
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.nmi.identity.cluster import DEADLINE, Cluster, running_cluster
from tests.support.nmi_objects import ADDRESS, assigned_identity, binding, exception, identity, pod

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
    await cluster.seen(lambda: all(watch.staleness_seconds() == 0.0 for watch in watches))


async def decision_input(cluster: Cluster, entry: PodEntry) -> DecisionInput:
    result = await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert isinstance(result, DecisionInput)
    return result


async def test_a_pod_without_doubts_is_not_read(cluster: Cluster) -> None:
    entry = await cluster.with_pod(assigned=True)
    decided = await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert decided == DecisionInput(entry.facts, entry.assigned, certain=True)
    assert cluster.reads() == []


async def test_a_pod_being_deleted_is_read_once_a_second_and_never_cached(cluster: Cluster) -> None:
    entry = await ending(cluster)
    assert entry.record.suspended
    standings = await asyncio.gather(*(cluster.cluster_cache.decision_input(entry, ADDRESS) for _ in range(20)))
    assert {type(standing) for standing in standings} == {DecisionInput}
    assert not any(standing.certain for standing in standings if isinstance(standing, DecisionInput))
    assert cluster.reads() == [POD_PATH]
    await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert cluster.reads() == [POD_PATH]
    cluster.clock.ahead += 1.0
    await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert cluster.reads() == [POD_PATH] * 2


@pytest.mark.parametrize("shown", ["no pod", "a namesake", "another address"])
async def test_a_pod_that_the_read_does_not_show_at_its_address_gets_no_answer(unwatched: Cluster, shown: str) -> None:
    uid = "uid-former"
    if shown != "no pod":
        put = unwatched.put_pod(pod(addresses=("10.0.0.7" if shown == "another address" else ADDRESS,)))
        uid = put if shown == "another address" else uid
    unwatched.deliver(pod(uid=uid, deleting=True))
    entry = unwatched.owner(ADDRESS)
    assert await unwatched.cluster_cache.decision_input(entry, ADDRESS) is GONE
    assert entry.gone is (shown != "another address")


async def test_the_label_from_the_read_counts_if_the_watch_is_behind(unwatched: Cluster) -> None:
    uid = unwatched.put_pod(pod(label="relabelled"))
    unwatched.deliver(pod(uid=uid))
    entry = unwatched.owner(ADDRESS)
    decided = await decision_input(unwatched, entry)
    assert decided.pod.label == "relabelled"


async def test_a_watch_event_after_a_read_counts_within_the_second_that_the_read_is_valid(cluster: Cluster) -> None:
    entry = await ending(cluster)
    await decision_input(cluster, entry)
    cluster.api.store.patch("pods", "web", {"metadata": {"labels": {"aadpodidbinding": "other"}}}, "ns")
    await cluster.seen(lambda: entry.facts.label == "other")
    decided = await decision_input(cluster, entry)
    assert decided.pod.label == "other"
    assert cluster.reads() == [POD_PATH] * 2


async def test_a_silent_watch_suspends_ready_responses_until_its_next_event(cluster: Cluster) -> None:
    entry = await cluster.with_pod(assigned=True)
    await confirm_all_watches(cluster)
    cluster.clock.ahead += 94.0
    cluster.cluster_cache.check()
    states = [cluster.suspended]
    cluster.clock.ahead += 2.0
    cluster.cluster_cache.check()
    states.append(cluster.suspended)
    assert states == [False, True]
    decided = await decision_input(cluster, entry)
    assert not decided.certain
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
    decided = await decision_input(unwatched, entry)
    assert [assigned.identity.metadata.name for assigned in decided.assigned] == ["still-there"]


async def test_without_a_response_to_the_read_serving_continues_and_a_metric_counts_it(cluster: Cluster) -> None:
    entry = await ending(cluster)
    cluster.api.intercept = unavailable
    decided = await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert decided == DecisionInput(entry.facts, entry.assigned, certain=False)
    assert cluster.registry.get_sample_value("aadpodidentity_nmi_unverified_grants_total") == 1.0
    errors, labels = "aadpodidentity_kubernetes_api_operations_errors_count", {"operation_type": "get_pod_list"}
    assert cluster.registry.get_sample_value(errors, labels) == 1.0
    # No read for a few seconds, and then another one.
    before = len(cluster.reads())
    cluster.clock.ahead += 2.0
    await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert len(cluster.reads()) == before
    cluster.api.intercept = None
    cluster.clock.ahead += 4.0
    await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert len(cluster.reads()) == before + 1


async def test_without_a_response_to_the_read_strict_mode_refuses() -> None:
    async with running_cluster(refuse_stale=True) as cluster:
        entry = await ending(cluster)
        await decision_input(cluster, entry)
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


APP = {"app": "web"}


def unavailable(_request: object) -> StatusError:
    return StatusError(503, "ServiceUnavailable", "down")


def all_but(cluster: Cluster, *silent: str) -> None:
    """Deliver an event of every watch except the *silent* ones."""
    for name, informer in cluster.cluster_cache.watches.by_name.items():
        informer._last_message_at = cluster.clock() - (1000.0 if name in silent else 0.0)


def with_pod(cluster: Cluster, **changes: Any) -> PodEntry:
    uid = cluster.put_pod(pod(**changes))
    cluster.deliver(pod(uid=uid, **changes))
    return cluster.owner(ADDRESS)


@pytest.mark.parametrize(
    ("managed", "names"),
    [
        pytest.param(False, {"pods", "assigned_identities", "exceptions"}, id="standard"),
        pytest.param(True, {"pods", "bindings", "identities", "exceptions"}, id="managed"),
    ],
)
async def test_each_silent_watch_of_the_mode_is_named(managed: bool, names: set[str]) -> None:
    async with running_cluster(managed=managed, watching=False) as cluster:
        assert set(cluster.cluster_cache.silent()) == names
        for name in names:
            all_but(cluster, name)
            assert cluster.cluster_cache.silent() == [name]
            cluster.cluster_cache.check()
            assert cluster.suspended
        all_but(cluster)
        cluster.cluster_cache.check()
        assert not cluster.suspended


async def test_an_exception_deleted_during_a_silent_watch_exempts_no_pod(unwatched: Cluster) -> None:
    entry = with_pod(unwatched, labels=APP)
    unwatched.deliver(exception(labels=APP))
    all_but(unwatched)
    now = await decision_input(unwatched, entry)
    assert (now.pod.exempt, now.certain) == ("exception ns/ex", True)
    all_but(unwatched, "exceptions")
    now = await decision_input(unwatched, entry)
    assert (now.pod.exempt, now.certain) == ("", False)


async def test_an_exception_created_during_a_silent_watch_counts(unwatched: Cluster) -> None:
    entry = with_pod(unwatched, labels=APP)
    unwatched.put(exception("new", APP))
    all_but(unwatched, "exceptions")
    now = await decision_input(unwatched, entry)
    assert (now.pod.exempt, now.certain) == ("exception ns/new", False)


async def test_a_label_removed_during_a_silent_watch_of_pods_ends_the_exemption(unwatched: Cluster) -> None:
    uid = unwatched.put_pod(pod())
    unwatched.deliver(pod(uid=uid, labels=APP), exception(labels=APP))
    entry = unwatched.owner(ADDRESS)
    assert entry.facts.exempt
    all_but(unwatched, "pods")
    assert (await decision_input(unwatched, entry)).pod.exempt == ""


@pytest.mark.parametrize("refuse", [False, True], ids=["serve", "refuse"])
async def test_an_unconfirmed_exemption_is_served_no_longer_than_a_grant(refuse: bool) -> None:
    async with running_cluster(watching=False, refuse_stale=refuse) as cluster:
        entry = with_pod(cluster, labels=APP)
        cluster.deliver(exception(labels=APP))
        all_but(cluster, "exceptions")
        cluster.api.intercept = unavailable
        result = await cluster.cluster_cache.decision_input(entry, ADDRESS)
        if refuse:
            assert isinstance(result, Refusal)
            assert result.reason is Reason.UPSTREAM_UNAVAILABLE
        else:
            assert result == DecisionInput(entry.facts, entry.assigned, certain=False)
            assert cluster.registry.get_sample_value("aadpodidentity_nmi_unverified_grants_total") == 1.0


@pytest.mark.parametrize("silent", ["bindings", "identities"])
async def test_in_managed_mode_identities_are_read_if_one_of_their_watches_is_silent(
    managed: Cluster, silent: str
) -> None:
    entry = with_pod(managed)
    managed.deliver(binding("revoked"), identity())
    managed.put(binding("present", "new"), binding("of-others", "new", selector="other"))
    managed.put(binding("to-nothing", "absent"))
    managed.put(identity("new"))
    all_but(managed)
    assert [assigned.binding for assigned in (await decision_input(managed, entry)).assigned] == ["revoked"]
    all_but(managed, silent)
    now = await decision_input(managed, entry)
    assert [(assigned.binding, assigned.identity.metadata.name) for assigned in now.assigned] == [("present", "new")]
    assert not now.certain


async def test_managed_mode_uses_the_label_from_a_read(managed: Cluster) -> None:
    uid = managed.put_pod(pod(label="relabelled"))
    managed.deliver(pod(uid=uid), binding("former"), binding("later", selector="relabelled"), identity())
    entry = managed.owner(ADDRESS)
    all_but(managed, "pods")
    assert [assigned.binding for assigned in (await decision_input(managed, entry)).assigned] == ["later"]


async def test_pods_of_one_namespace_share_the_reads_within_a_second(managed: Cluster) -> None:
    entries = []
    for number in range(5):
        name, address = f"web-{number}", f"10.0.0.{number + 1}"
        managed.deliver(pod(name, uid=name, addresses=(address,)))
        entry = managed.owner(address)
        entries.append((entry, address))
    all_but(managed, "bindings", "exceptions")
    for entry, address in entries:
        assert isinstance(await managed.cluster_cache.decision_input(entry, address), DecisionInput)
    kinds = ("azureidentities", "azureidentitybindings", "azurepodidentityexceptions")
    for kind in kinds:
        paths = [request.path for request in managed.api.requests if f"/namespaces/ns/{kind}" in request.path]
        assert len(paths) == 1


class Reader:
    """Lists of the namespace `full` never end; single objects cannot be read."""

    def __init__(self) -> None:
        self.namespaces: list[str] = []
        self.away = False

    async def get(self, kind: Any, namespace: str, name: str) -> Any:
        raise ServerError(502, MALFORMED, "its answer cannot be read")

    async def list(self, kind: Any, namespace: str = "", **_selectors: str) -> list[Any]:
        self.namespaces.append(namespace)
        if self.away:
            raise NoResponse("away")
        if namespace == "full":
            await asyncio.Event().wait()
        return []


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(module, "READ_SECONDS", 0.02)
    return Reader()


@pytest.mark.parametrize(
    ("first", "second"), [("bindings", "identities"), ("identities", "exceptions"), ("exceptions", "bindings")]
)
async def test_reads_of_other_namespaces_continue(reader: Reader, first: str, second: str) -> None:
    now = [0.0]
    reads = VerificationReads(cast("Client", reader), lambda: now[0])
    with pytest.raises(UnansweredError):
        await getattr(reads, first)("full")
    assert await reads.exceptions("other") == []
    assert await reads.bindings("other") == []
    assert await reads.assigned("nodename=n") == []
    with pytest.raises(UnansweredError, match="previous read"):
        await getattr(reads, second)("full")
    now[0] += module.UNANSWERED_SECONDS
    with pytest.raises(UnansweredError):
        await getattr(reads, second)("full")
    assert reader.namespaces == ["full", "other", "other", "", "full"]
    await reads.aclose()


async def test_an_unreachable_server_gets_no_more_reads(reader: Reader) -> None:
    reads = VerificationReads(cast("Client", reader), lambda: 0.0)
    reader.away = True
    with pytest.raises(UnansweredError):
        await reads.exceptions("other")
    with pytest.raises(UnansweredError, match="previous read"):
        await reads.bindings("third")
    await reads.aclose()


async def test_an_unreadable_pod_does_not_count_as_an_unreachable_server(reader: Reader) -> None:
    reads = VerificationReads(cast("Client", reader), lambda: 0.0)
    with pytest.raises(UnansweredError):
        await reads.pod_now("ns", "deep")
    assert await reads.exceptions("other") == []
    await reads.aclose()


async def test_a_read_that_is_cancelled_before_it_begins_leaves_no_coroutine(reader: Reader) -> None:
    reads = VerificationReads(cast("Client", reader), lambda: 0.0)
    request = asyncio.create_task(reads.exceptions("other"))
    await asyncio.sleep(0)
    await reads.aclose()
    with pytest.raises(asyncio.CancelledError):
        await request
    gc.collect()
