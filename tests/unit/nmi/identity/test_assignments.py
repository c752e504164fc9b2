"""Managed mode: the pod's label, a binding and an identity of its namespace, and no MIC. Limits in both modes.

The numbers of bindings and assigned identities occur only if a tenant floods the API server. Excluded: silent watches.
"""

import logging
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmi.identity.assignments import ASSIGNED_MAX, MicAssignments
from nmi.identity.decide import DecisionPolicy, Grant, Wait, decide
from nmi.identity.limited_map import LINES_PER_MINUTE, LimitedMap, OverLimitCount
from nmi.identity.managed_mode import BINDINGS_MAX
from nmi.identity.pod_entry import PodEntry
from nmi.identity.pods import facts as pod_facts_of
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.identity.verification_reads import VerificationReads
from nmi.identity.watches import AffectedPods, PodUpdates
from nmi.refusal import Reason, Refusal
from podidentity.resources import OBJECT_ID_ANNOTATION, AzureAssignedIdentity
from tests.support.nmi.identity.cluster import Cluster, running_cluster
from tests.support.nmi_objects import ADDRESS, NODE, OBJECT_ID, REQUEST, assigned_identity, binding, by, identity, pod
from tests.support.work import Work

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


async def test_only_the_kinds_of_the_role_of_managed_mode_are_watched() -> None:
    """tests/system/plane/deploy/test_permissions.py has this role (MANAGED), which allows nothing of MIC's objects."""
    async with running_cluster(managed=True) as cluster:
        assert set(cluster.cluster_cache.watches.by_name) == {"bindings", "exceptions", "identities", "pods"}


async def test_mics_assignments_are_not_watched_and_do_not_count() -> None:
    def prepare(cluster: Cluster) -> None:
        cluster.put(assigned_identity())

    async with running_cluster(prepare, managed=True) as cluster:
        entry = await cluster.with_pod()
        assert entry.assigned == ()
        assert set(cluster.cluster_cache.watches.by_name) == {"pods", "bindings", "identities", "exceptions"}
        assert not [request for request in cluster.api.requests if "azureassignedidentities" in request.path]


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
    assert [assignment.binding for assignment in after] == ["b0", "b1", "b2", "c"]
    assert all(now is then for now, then in zip(after, before, strict=False))


async def test_a_changed_spec_resets_the_time_since_when_an_identity_is_usable(managed: Cluster) -> None:
    managed.deliver(pod(), binding(), identity())
    entry = managed.owner(ADDRESS)
    before = entry.assigned[0].usable_since
    managed.clock.ahead += 30.0
    managed.deliver(identity(client_id="c11e0000-0000-0000-0000-00000000000b"))
    assert entry.assigned[0].usable_since >= before + 30.0


MANY = 2000


def named(name: str, namespace: str) -> AzureAssignedIdentity:
    """Return an assigned identity for the pod ns/web, in a namespace that its author may write."""
    made = assigned_identity(binding=name)
    return msgspec.structs.replace(
        made, metadata=msgspec.structs.replace(made.metadata, name=name, namespace=namespace)
    )


def assigned(cluster: Cluster) -> int:
    entry = cluster.owner("10.0.0.1")
    return len(entry.assigned)


def beyond(cluster: Cluster) -> float | None:
    return cluster.registry.get_sample_value("aadpodidentity_nmi_assignments_beyond_limit")


async def test_the_assigned_identities_of_a_pod_are_limited_and_mics_come_first(unwatched: Cluster) -> None:
    unwatched.deliver(pod())
    for number in range(MANY):
        unwatched.deliver(named(f"a{number:04}", "aaa-evil"))
    assert assigned(unwatched) == ASSIGNED_MAX
    assert beyond(unwatched) == MANY - ASSIGNED_MAX
    unwatched.deliver(named("z-of-mic", "default"))
    entry = unwatched.owner("10.0.0.1")
    assert entry.assigned[0].binding == "z-of-mic"
    assert len(entry.assigned) == ASSIGNED_MAX
    for number in range(MANY):
        unwatched.deliver_deletion(named(f"a{number:04}", "aaa-evil"))
    assert assigned(unwatched) == 1
    assert beyond(unwatched) == 0


async def test_identities_of_other_namespaces_do_not_push_out_those_of_the_pods_own(unwatched: Cluster) -> None:
    unwatched.deliver(pod())
    for number in range(ASSIGNED_MAX):
        unwatched.deliver(assigned_identity(f"a{number:04}", namespace="evil", type_=1))
    unwatched.deliver(assigned_identity("z"))
    entry = unwatched.owner("10.0.0.1")
    assert entry.assigned[0].identity.key == ("ns", "z")
    assert beyond(unwatched) == 1


async def test_one_event_of_thousands_for_one_pod_takes_as_much_work_as_one_of_hundreds(unwatched: Cluster) -> None:
    unwatched.deliver(pod())
    works = []
    for number in range(MANY):
        unwatched.deliver(named(f"a{number:04}", "aaa-evil"))
        if number in {ASSIGNED_MAX, MANY - 1}:
            with Work() as work:
                unwatched.deliver_deletion(named("a0000", "aaa-evil"))
                unwatched.deliver(named("a0000", "aaa-evil"))
            works.append(work.bytecodes)
    assert works[1] < 1.5 * works[0], works


async def test_bindings_of_one_selector_are_limited_in_managed_mode(managed: Cluster) -> None:
    managed.deliver(pod(), identity())
    for number in range(MANY):
        managed.deliver(binding(f"b{number:04}"))
    entry = managed.owner("10.0.0.1")
    assert [assignment.binding for assignment in entry.assigned] == [f"b{number:04}" for number in range(BINDINGS_MAX)]
    assert beyond(managed) == MANY - BINDINGS_MAX
    managed.deliver_deletion(binding("b0000"))
    assert [assignment.binding for assignment in entry.assigned] == [
        f"b{number:04}" for number in range(1, BINDINGS_MAX + 1)
    ]


async def test_an_identity_over_a_limit_is_given_to_no_pod_in_managed_mode(managed: Cluster) -> None:
    managed.deliver(pod(), binding(), identity(client_id="c" * 257))
    assert assigned(managed) == 0
    managed.deliver(identity(client_id="c" * 256))
    assert assigned(managed) == 1


def test_each_exceeded_limit_is_logged_once_and_many_of_them_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    limits = OverLimitCount("too many", clock=lambda: now[0])
    for count in (1, 2, 1):
        limits.note(("ns", "a"), count)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    for number in range(1000):
        limits.note(("ns", f"p{number}"), 1)
    assert len(caplog.records) == LINES_PER_MINUTE
    assert limits.count == 1001
    now[0] += 60.0
    limits.note(("other", "a"), 1)
    assert len(caplog.records) == LINES_PER_MINUTE + 1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), max_size=60), st.integers(0, 5))
def test_the_first_identities_in_order_count(changes: list[tuple[int, int, bool]], most: int) -> None:
    limited: LimitedMap[tuple[str], int] = LimitedMap(most)
    model: dict[tuple[str], tuple[int, int]] = {}
    for number, (key, order, put) in enumerate(changes):
        name = (str(key),)
        if put:
            model[name] = (order, number)
            limited.put(name, number, (order,))
        else:
            assert limited.remove(name) == (model.pop(name, None) is not None)
        expected = [value for _, _, value in sorted((order, name, value) for name, (order, value) in model.items())]
        assert list(limited.counted) == expected[:most]
        assert (len(limited), limited.beyond) == (len(model), max(0, len(model) - most))
        assert limited.counted is limited.counted


@pytest.mark.parametrize("failing", ["the new state", "the update of the former pod"])
def test_an_identity_that_moves_leaves_its_pod_first_and_reaches_no_other_if_that_fails(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """`podidentity.kube.object_store` reports the failed object as removed then."""
    updated: list[tuple[str, int]] = []

    def update(pods: AffectedPods) -> None:
        updated.append((pods[1], len(assignments.of(pod_facts_of(pod(pods[1]))))))
        if failing != "the new state" and len(updated) > 1:
            raise ValueError

    assignments = MicAssignments(cast("VerificationReads", None), node=NODE)
    handler = PodUpdates(assignments.upserted, assignments.deleted, update)
    old, new = assigned_identity(pod_name="web"), assigned_identity(pod_name="api")
    handler.upserted(None, old)
    if failing == "the new state":
        monkeypatch.setattr("nmi.identity.assignments.project", lambda *_: 1 / 0)
    with pytest.raises((ValueError, ZeroDivisionError)):
        handler.upserted(old, new)
    assert updated == [("web", 1), ("web", 0)]
    assert assignments.of(pod_facts_of(pod("api"))) == ()
