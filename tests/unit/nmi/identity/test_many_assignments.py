"""Bindings and assigned identities in numbers that occur only if a tenant floods the API server."""

import logging
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmi.identity.assignments import ASSIGNED_MAX
from nmi.identity.limited_map import LINES_PER_MINUTE, LimitedMap, OverLimitCount
from nmi.identity.managed_mode import BINDINGS_MAX
from podidentity.resources import AzureAssignedIdentity
from tests.support.nmi.identity.cluster import Cluster
from tests.support.nmi_objects import assigned_identity, binding, identity, pod

MANY = 2000
BEYOND = "aadpodidentity_nmi_assignments_beyond_limit"


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
    return cluster.registry.get_sample_value(BEYOND)


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


@pytest.mark.measures
async def test_one_event_of_thousands_for_one_pod_costs_under_a_millisecond(unwatched: Cluster) -> None:
    unwatched.deliver(pod())
    for number in range(MANY):
        unwatched.deliver(named(f"a{number:04}", "aaa-evil"))
    costs = []
    for _ in range(10):
        began = time.process_time()
        unwatched.deliver_deletion(named("a0000", "aaa-evil"))
        unwatched.deliver(named("a0000", "aaa-evil"))
        costs.append(time.process_time() - began)
    assert min(costs) < 0.002


async def test_bindings_of_one_selector_are_limited_in_managed_mode(managed: Cluster) -> None:
    managed.deliver(pod(), identity())
    for number in range(MANY):
        managed.deliver(binding(f"b{number:04}"))
    entry = managed.owner("10.0.0.1")
    assert [each.binding for each in entry.assigned] == [f"b{number:04}" for number in range(BINDINGS_MAX)]
    assert beyond(managed) == MANY - BINDINGS_MAX
    managed.deliver_deletion(binding("b0000"))
    assert [each.binding for each in entry.assigned] == [f"b{number:04}" for number in range(1, BINDINGS_MAX + 1)]


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
