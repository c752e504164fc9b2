"""Each kind of silent watch: NMI reports it, and reads before it grants. Excluded: silent watches of pods."""

from typing import Any

import pytest

from nmi.identity.cluster_cache import DecisionInput
from nmi.identity.pods import PodEntry
from nmi.refusal import Reason, Refusal
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.nmi.identity.cluster import Cluster, running_cluster
from tests.support.nmi_objects import ADDRESS, binding, exception, identity, pod

APP = {"app": "web"}


def unavailable(_request: object) -> StatusError:
    return StatusError(503, "ServiceUnavailable", "down")


def all_but(cluster: Cluster, *silent: str) -> None:
    """Deliver an event of every watch except the *silent* ones."""
    for name, informer in cluster.cluster_cache.watches.by_name.items():
        informer._last_sign = cluster.clock() - (1000.0 if name in silent else 0.0)


def with_pod(cluster: Cluster, **changes: Any) -> PodEntry:
    uid = cluster.put_pod(pod(**changes))
    cluster.deliver(pod(uid=uid, **changes))
    return cluster.owner(ADDRESS)


async def decision_input(cluster: Cluster, entry: PodEntry) -> DecisionInput:
    found = await cluster.cluster_cache.decision_input(entry, ADDRESS)
    assert isinstance(found, DecisionInput)
    return found


@pytest.mark.parametrize(
    ("managed", "names"),
    [
        (False, {"pods", "assigned_identities", "exceptions"}),
        (True, {"pods", "bindings", "identities", "exceptions"}),
    ],
    ids=["standard", "managed"],
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
        found = await cluster.cluster_cache.decision_input(entry, ADDRESS)
        if refuse:
            assert isinstance(found, Refusal)
            assert found.reason is Reason.UPSTREAM_UNAVAILABLE
        else:
            assert found == DecisionInput(entry.facts, entry.assigned, certain=False)
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
    assert [each.binding for each in (await decision_input(managed, entry)).assigned] == ["revoked"]
    all_but(managed, silent)
    now = await decision_input(managed, entry)
    assert [(each.binding, each.identity.metadata.name) for each in now.assigned] == [("present", "new")]
    assert not now.certain


async def test_managed_mode_uses_the_label_from_a_read(managed: Cluster) -> None:
    uid = managed.put_pod(pod(label="relabelled"))
    managed.deliver(pod(uid=uid), binding("former"), binding("later", selector="relabelled"), identity())
    entry = managed.owner(ADDRESS)
    all_but(managed, "pods")
    assert [each.binding for each in (await decision_input(managed, entry)).assigned] == ["later"]


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
        paths = [each.path for each in managed.api.requests if f"/namespaces/ns/{kind}" in each.path]
        assert len(paths) == 1
