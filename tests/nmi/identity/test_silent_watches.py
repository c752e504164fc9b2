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


async def test_an_exception_deleted_during_a_silent_watch_exempts_no_pod() -> None:
    async with running_cluster(watching=False) as cluster:
        entry = with_pod(cluster, labels=APP)
        cluster.deliver(exception(labels=APP), "exceptions")
        all_but(cluster)
        now = await decision_input(cluster, entry)
        assert (now.pod.exempt, now.certain) == ("exception ns/ex", True)
        all_but(cluster, "exceptions")
        now = await decision_input(cluster, entry)
        assert (now.pod.exempt, now.certain) == ("", False)


async def test_an_exception_created_during_a_silent_watch_counts() -> None:
    async with running_cluster(watching=False) as cluster:
        entry = with_pod(cluster, labels=APP)
        cluster.put_exception(exception("new", APP))
        all_but(cluster, "exceptions")
        now = await decision_input(cluster, entry)
        assert (now.pod.exempt, now.certain) == ("exception ns/new", False)


async def test_a_label_removed_during_a_silent_watch_of_pods_ends_the_exemption() -> None:
    async with running_cluster(watching=False) as cluster:
        uid = cluster.put_pod(pod())
        cluster.deliver(pod(uid=uid, labels=APP))
        cluster.deliver(exception(labels=APP), "exceptions")
        entry = cluster.owner(ADDRESS)
        assert entry.facts.exempt
        all_but(cluster, "pods")
        assert (await decision_input(cluster, entry)).pod.exempt == ""


@pytest.mark.parametrize("refuse", [False, True], ids=["serve", "refuse"])
async def test_an_unconfirmed_exemption_is_served_no_longer_than_a_grant(refuse: bool) -> None:
    async with running_cluster(watching=False, refuse_stale=refuse) as cluster:
        entry = with_pod(cluster, labels=APP)
        cluster.deliver(exception(labels=APP), "exceptions")
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
async def test_in_managed_mode_identities_are_read_if_one_of_their_watches_is_silent(silent: str) -> None:
    async with running_cluster(managed=True, watching=False) as cluster:
        entry = with_pod(cluster)
        cluster.deliver(binding("revoked"), "bindings")
        cluster.deliver(identity(), "identities")
        cluster.put_binding(binding("present", "new"))
        cluster.put_binding(binding("of-others", "new", selector="other"))
        cluster.put_binding(binding("to-nothing", "absent"))
        cluster.put_identity(identity("new"))
        all_but(cluster)
        assert [each.binding for each in (await decision_input(cluster, entry)).assigned] == ["revoked"]
        all_but(cluster, silent)
        now = await decision_input(cluster, entry)
        assert [(each.binding, each.identity.metadata.name) for each in now.assigned] == [("present", "new")]
        assert not now.certain


async def test_managed_mode_uses_the_label_from_a_read() -> None:
    async with running_cluster(managed=True, watching=False) as cluster:
        uid = cluster.put_pod(pod(label="relabelled"))
        cluster.deliver(pod(uid=uid))
        cluster.deliver(binding("former"), "bindings")
        cluster.deliver(binding("later", selector="relabelled"), "bindings")
        cluster.deliver(identity(), "identities")
        entry = cluster.owner(ADDRESS)
        all_but(cluster, "pods")
        assert [each.binding for each in (await decision_input(cluster, entry)).assigned] == ["later"]


async def test_pods_of_one_namespace_share_the_reads_within_a_second() -> None:
    async with running_cluster(managed=True, watching=False) as cluster:
        entries = []
        for number in range(5):
            name, address = f"web-{number}", f"10.0.0.{number + 1}"
            cluster.deliver(pod(name, uid=name, addresses=(address,)))
            entry = cluster.owner(address)
            entries.append((entry, address))
        all_but(cluster, "bindings", "exceptions")
        for entry, address in entries:
            assert isinstance(await cluster.cluster_cache.decision_input(entry, address), DecisionInput)
        kinds = ("azureidentities", "azureidentitybindings", "azurepodidentityexceptions")
        for kind in kinds:
            paths = [each.path for each in cluster.api.requests if f"/namespaces/ns/{kind}" in each.path]
            assert len(paths) == 1
