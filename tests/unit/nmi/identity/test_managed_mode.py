"""Managed mode: the pod's label, a binding and an identity of its namespace, and no MIC. Excluded: silent watches."""

import pytest

from nmi.identity.decide import DecisionPolicy, Grant, Wait, decide
from nmi.identity.pods import PodEntry
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from podidentity.resources import OBJECT_ID_ANNOTATION, Resource
from tests.support.nmi.identity.cluster import Cluster, running_cluster, waking
from tests.support.nmi_objects import (
    ADDRESS,
    OBJECT_ID,
    REQUEST,
    assigned_identity,
    binding,
    by,
    exception,
    identity,
    pod,
)

OTHER_ID = "c11e0000-0000-0000-0000-00000000000b"
POLICY = DecisionPolicy(force_namespaced=True)


def outcome(entry: PodEntry, request: TokenRequest = REQUEST) -> str:
    """The name of the identity that is granted, or the reason why none is."""
    decision = decide(entry.facts, entry.assigned, request, POLICY, {})
    match decision:
        case Grant(assigned):
            return assigned.identity.metadata.name
        case Wait():
            return f"wait, then {decision.refusal.reason.value}"
        case Refusal():
            return decision.reason.value
    return "exempt"


async def test_label_binding_and_identity_result_in_a_grant_in_any_order() -> None:
    async with running_cluster(managed=True) as cluster:
        cluster.put(binding())
        entry = await cluster.with_pod()
        assert outcome(entry) == f"wait, then {Reason.NO_MATCHING_IDENTITY.value}"
        async with waking(entry):
            cluster.put(identity())
        assert outcome(entry) == "id"
        assert outcome(await cluster.with_neighbour()) == "id"


@pytest.mark.parametrize(
    "change",
    ["binding-deleted", "identity-deleted", "selector", "other-identity", "label", "label-gone"],
)
async def test_each_revocation_takes_effect_with_its_event(change: str) -> None:
    async with running_cluster(managed=True) as cluster:
        cluster.put(binding(), identity())
        entry = await cluster.with_pod()
        await cluster.seen(lambda: outcome(entry) == "id")
        async with waking(entry):
            match change:
                case "binding-deleted":
                    cluster.delete(binding())
                case "identity-deleted":
                    cluster.delete(identity())
                case "selector":
                    cluster.put(binding(selector="other"))
                case "other-identity":
                    cluster.put(binding(identity_name="absent"))
                case "label":
                    cluster.put_pod(pod(label="other"))
                case "label-gone":
                    cluster.put_pod(pod(label=None))
        nothing = {"label-gone": Reason.NOTHING_ASSIGNED.value}
        assert outcome(entry) == nothing.get(change, f"wait, then {Reason.NO_MATCHING_IDENTITY.value}")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (binding(deleting=True), f"wait, then {Reason.NO_MATCHING_IDENTITY.value}"),
        (identity(deleting=True), f"wait, then {Reason.NO_MATCHING_IDENTITY.value}"),
        (exception(labels={"app": "web"}), "exempt"),
    ],
    ids=["binding-being-deleted", "identity-being-deleted", "exception"],
)
async def test_an_object_being_deleted_is_not_granted_and_an_exception_takes_precedence(
    managed: Cluster, changed: Resource, expected: str
) -> None:
    managed.deliver(pod(labels={"app": "web"}), binding(), identity())
    entry = managed.owner(ADDRESS)
    assert outcome(entry) == "id"
    managed.deliver(changed)
    assert outcome(entry) == expected


async def test_objects_of_other_namespaces_are_never_combined(managed: Cluster) -> None:
    managed.deliver(pod())
    entry = managed.owner(ADDRESS)
    managed.deliver(binding(namespace="other"), identity())
    assert entry.assigned == ()
    managed.deliver(binding(identity_name="theirs"), identity("theirs", namespace="other"))
    assert entry.assigned == ()
    managed.deliver(binding("later", identity_name="theirs"))
    assert entry.assigned == ()


async def test_without_an_id_the_first_by_binding_is_granted_and_with_an_id_that_identity(managed: Cluster) -> None:
    managed.deliver(pod())
    entry = managed.owner(ADDRESS)
    managed.deliver(binding("z", "first"), binding("a", "second"), identity("first"))
    managed.deliver(identity("second", client_id=OTHER_ID))
    assert [outcome(entry), outcome(entry, by(SelectorKind.CLIENT_ID, OTHER_ID.upper()))] == ["second"] * 2
    assert outcome(entry, by(SelectorKind.CLIENT_ID, identity().spec.client_id)) == "first"
    absent = outcome(entry, by(SelectorKind.CLIENT_ID, "c11e0000-0000-0000-0000-0000000000ff"))
    assert absent == f"wait, then {Reason.NO_MATCHING_IDENTITY.value}"


async def test_an_object_id_is_read_from_the_identitys_annotation(managed: Cluster) -> None:
    managed.deliver(pod(), binding(), identity())
    entry = managed.owner(ADDRESS)
    request = by(SelectorKind.OBJECT_ID, OBJECT_ID.upper())
    assert outcome(entry, request) == Reason.UNKNOWN_OBJECT_ID.value
    managed.deliver(identity(annotations={OBJECT_ID_ANNOTATION: OBJECT_ID}))
    assert outcome(entry, request) == "id"


async def test_a_pod_without_the_label_is_refused_immediately_even_with_an_empty_selector(managed: Cluster) -> None:
    managed.deliver(binding(selector=""), identity())
    for label in (None, ""):
        managed.deliver(pod(label=label))
        entry = managed.owner(ADDRESS)
        assert outcome(entry) == Reason.NOTHING_ASSIGNED.value


async def test_mics_assignments_are_not_watched_and_do_not_count() -> None:
    def prepare(cluster: Cluster) -> None:
        cluster.put(assigned_identity())

    async with running_cluster(prepare, managed=True) as cluster:
        entry = await cluster.with_pod()
        assert entry.assigned == ()
        assert set(cluster.cluster_cache.watches.by_name) == {"pods", "bindings", "identities", "exceptions"}
        assert not [each for each in cluster.api.requests if "azureassignedidentities" in each.path]


async def test_a_change_that_affects_no_decision_invalidates_nothing(managed: Cluster) -> None:
    managed.deliver(pod(), binding(), identity())
    entry = managed.owner(ADDRESS)
    before, since = entry.record.generation, entry.assigned[0].usable_since
    managed.deliver(identity(annotations={"note": "x"}, resource_version="2"), binding(resource_version="2"))
    managed.deliver(binding("elsewhere", namespace="other"))
    managed.deliver(identity("unbound"))
    assert (entry.record.generation, entry.assigned[0].usable_since) == (before, since)


async def test_pods_share_joined_identities_so_that_many_bindings_cost_little(managed: Cluster) -> None:
    managed.deliver(identity())
    for number in range(3):
        managed.deliver(pod(f"web-{number}", uid=str(number), addresses=(f"10.0.0.{number + 1}",)))
        managed.deliver(binding(f"b{number}"))
    entries = [entry for entry in managed.cluster_cache.entries() if entry.assigned]
    assert len(entries) == 3
    before = entries[0].assigned
    assert all(entry.assigned is before for entry in entries)
    managed.deliver(binding("c"), identity(annotations={"note": "x"}))
    after = entries[0].assigned
    assert [each.binding for each in after] == ["b0", "b1", "b2", "c"]
    assert all(now is then for now, then in zip(after, before, strict=False))


async def test_a_changed_spec_resets_the_time_since_when_an_identity_is_usable(managed: Cluster) -> None:
    managed.deliver(pod(), binding(), identity())
    entry = managed.owner(ADDRESS)
    before = entry.assigned[0].usable_since
    managed.clock.ahead += 30.0
    managed.deliver(identity(client_id=OTHER_ID))
    assert entry.assigned[0].usable_since >= before + 30.0


def put_in_old_field_names(cluster: Cluster) -> None:
    old = {"apiVersion": "aadpodidentity.k8s.io/v1", "metadata": {"name": "old", "namespace": "ns"}}
    store = cluster.api.store
    store.create(
        "azureidentities.aadpodidentity.k8s.io",
        {**old, "kind": "AzureIdentity", "spec": {"type": 0, "ClientID": OTHER_ID, "ResourceID": "r"}},
        "ns",
    )
    store.create(
        "azureidentitybindings.aadpodidentity.k8s.io",
        {**old, "kind": "AzureIdentityBinding", "spec": {"AzureIdentity": "old", "Selector": "web"}},
        "ns",
    )


async def test_fields_in_spellings_from_before_v1_6_are_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with running_cluster(managed=True) as cluster:
        entry = await cluster.with_pod()
        put_in_old_field_names(cluster)
        # A binding in the current spelling to the identity in the old one, and one to another identity.
        cluster.put(binding("to-old", "old"), binding(), identity())
        await cluster.seen(lambda: outcome(entry) == "id")
        await cluster.seen(lambda: len(entry.assigned) == 2)
        assert outcome(entry, by(SelectorKind.CLIENT_ID, OTHER_ID)) != "old"
        assert outcome(entry, by(SelectorKind.RESOURCE_ID, "r")) != "old"
    reasons = {vars(each)["resource"]: vars(each)["reason"] for each in caplog.records if "spelling" in each.message}
    assert reasons == {
        "azureidentities ns/old": "spec.ClientID, spec.ResourceID",
        "azureidentitybindings ns/old": "spec.AzureIdentity, spec.Selector",
    }


async def test_a_flag_makes_the_old_field_names_count() -> None:
    async with running_cluster(managed=True, old_field_names=True) as cluster:
        entry = await cluster.with_pod()
        put_in_old_field_names(cluster)
        await cluster.seen(lambda: outcome(entry, by(SelectorKind.CLIENT_ID, OTHER_ID)) == "old")
