"""The cost of an event depends on the objects that it changes, not on the size of the cluster; the first read; and the
calls to Azure and to the API server that a rollout on one scale set causes.

Function calls are counted, because times depend on the machine's load. Excluded: bytes and time;
`benchmarks/controller` measures those up to 100,000 pods.
"""

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from mic.azure.identities import HostIdentities
from mic.decisions import completion, host_change, preparation
from mic.decisions.policy import Policy
from mic.startup.first_read import few_full_collections
from podidentity.resources import Node, Pod
from tests.support.filled_view import FilledView
from tests.support.mic.world import MicWorld
from tests.support.objects import assigned, binding, identity, node, pod, set_id, set_node, vm_id
from tests.support.work import calls

SMALL, LARGE = 200, 10_000
NODES_OF_A_SET = 5


def cluster(pods: int) -> FilledView:
    """Ten pods on a node, twenty for a binding, every object Assigned; half of the nodes belong to scale sets."""
    made = FilledView()
    bound = {}
    for number in range(pods // 20):
        name = f"identity-{number}"
        bound[name] = identity(name), binding(f"binding-{number}", identity=name, selector=name)
        made.add(*bound[name])
    made.add(*(a_node(number) for number in range(pods // 10)))
    for number in range(pods):
        pod_ = a_pod(number, pods)
        made.add(pod_)
        made.view.assigned.upserted(None, assigned(pod_, *bound[pod_.binding_label]))
    made.dirty.clear()
    return made


def a_node(number: int) -> Node:
    if number % 2:
        return set_node(f"n{number}", number, f"pool{number // 2 // NODES_OF_A_SET}")
    return node(f"n{number}", f"azure://{vm_id(f'n{number}')}")


def a_pod(number: int, pods: int, **more: Any) -> Pod:
    return pod(f"pod-{number}", node=f"n{number // 10}", label=f"identity-{number % (pods // 20)}", **more)


@pytest.fixture(scope="module")
def sizes() -> dict[int, FilledView]:
    return {size: cluster(size) for size in (SMALL, LARGE)}


def heartbeat_of_a_pod(made: FilledView, pods: int) -> int:
    old = a_pod(7, pods)
    return calls(lambda: made.view.pods.upserted(old, a_pod(7, pods)))


def heartbeat_of_a_node(made: FilledView, pods: int) -> int:
    return calls(lambda: made.view.nodes.upserted(a_node(1), a_node(1)))


def own_write_seen_again(made: FilledView, pods: int) -> int:
    existing = made.view.existing(("default", f"pod-7-default-{a_pod(7, pods).binding_label}"))
    assert existing is not None
    return calls(lambda: made.view.assigned.upserted(existing.object, existing.object))


def a_pod_that_finishes_and_runs_again(made: FilledView, pods: int) -> int:
    old, over = a_pod(7, pods), a_pod(7, pods, phase="Succeeded")

    def both() -> None:
        made.view.pods.upserted(old, over)
        made.view.pods.upserted(over, old)

    return calls(both)


@pytest.mark.parametrize(
    "event", [heartbeat_of_a_pod, heartbeat_of_a_node, own_write_seen_again, a_pod_that_finishes_and_runs_again]
)
def test_an_event_costs_the_same_in_a_cluster_that_is_fifty_times_larger(
    sizes: dict[int, FilledView], event: Callable[[FilledView, int], int]
) -> None:
    small, large = (event(sizes[size], size) for size in (SMALL, LARGE))
    assert 0 < small < 500
    assert large <= small * 1.2


def test_an_unrelated_event_causes_no_work(sizes: dict[int, FilledView]) -> None:
    made = sizes[LARGE]
    made.dirty.clear()
    heartbeat_of_a_pod(made, LARGE)
    heartbeat_of_a_node(made, LARGE)
    own_write_seen_again(made, LARGE)
    assert made.dirty == []


def test_the_plan_of_a_host_costs_its_objects_and_not_the_cluster(sizes: dict[int, FilledView]) -> None:
    def one(size: int) -> int:
        made = sizes[size]
        key = vm_id("n2").lower()
        newcomer = pod("newcomer", node="n2", label=a_pod(20, size).binding_label)
        made.add(newcomer)
        identities = HostIdentities(type="UserAssigned")
        try:
            return calls(
                lambda: (
                    preparation.prepare(made.view.host_state(key), identities, Policy()),
                    host_change.azure_change(made.view.host_state(key), identities, Policy()),
                    completion.finish(made.view.host_state(key), identities, Policy()),
                )
            )
        finally:
            made.remove(newcomer)

    assert 0 < one(LARGE) <= one(SMALL) * 1.2


OBJECTS = 300_000


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The number of collections of each generation, at the interpreter's default thresholds."""
    counts, before = [0, 0, 0], gc.get_threshold()

    def note(phase: str, about: dict[str, int]) -> None:
        counts[about["generation"]] += phase == "start"

    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    gc.callbacks.append(note)
    try:
        yield counts
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*before)
        # No gc.unfreeze: tests/conftest.py froze the objects of all tests, which would make later collections long.


def test_objects_that_stay_cause_no_full_collection(collections: list[int]) -> None:
    with few_full_collections():
        objects = [[number] for number in range(OBJECTS)]
    assert len(objects) == OBJECTS
    assert collections[2] == 0
    assert collections[0] > 300


class Cycle:
    """An object in a cycle with itself."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_in_cycles_stays_bounded(collections: list[int]) -> None:
    alive: weakref.WeakSet[Cycle] = weakref.WeakSet()
    most = 0
    with few_full_collections():
        for _ in range(20_000):
            alive.add(Cycle())
            most = max(most, len(alive))
    assert most < 2_000


def test_the_thresholds_are_restored_after_a_failure() -> None:
    before = gc.get_threshold()
    with suppress(RuntimeError), few_full_collections():
        assert gc.get_threshold() != before
        raise RuntimeError
    assert gc.get_threshold() == before


ROLLED_OUT, IDENTITIES, NODES = 60, 5, 3
SET = set_id().lower()


def pods(begin: int = 0) -> list[Pod]:
    numbers = range(begin, begin + ROLLED_OUT)
    return [pod(f"web-{number}", node=f"s{number % NODES}", label=f"demo-{number % IDENTITIES}") for number in numbers]


@pytest.fixture
async def rolled_out(world: MicWorld) -> MicWorld:
    """After the rollout on the scale set."""
    world.host(set_id(), etag='"1"')
    world.add(*(set_node(f"s{number}", number) for number in range(NODES)), *pods())
    for number in range(IDENTITIES):
        name = f"demo-{number}"
        world.add(identity(name), binding(name, identity=name, selector=name))
    await world.settle(SET)
    assert [*world.statuses().values()] == ["Assigned"] * ROLLED_OUT
    assert world.hosts.calls == ["get", "update"]
    assert writes(world)["POST"] == ROLLED_OUT
    assert writes(world).total() <= 2 * ROLLED_OUT
    world.api.requests.clear()
    return world


def writes(world: MicWorld) -> Counter[str]:
    return Counter(world.api.written("/azureassignedidentities"))


async def test_pods_of_attached_identities_cost_one_write_each_and_no_azure_call(rolled_out: MicWorld) -> None:
    rolled_out.add(*pods(ROLLED_OUT))
    await rolled_out.settle(SET)
    assert writes(rolled_out) == {"POST": ROLLED_OUT}
    assert rolled_out.hosts.calls == ["get", "update"]


async def test_the_end_of_all_pods_costs_one_update_and_two_writes_per_pod(
    rolled_out: MicWorld,
) -> None:
    rolled_out.remove(*pods())
    reconciler = rolled_out.host_reconciler
    await asyncio.gather(reconciler.revoke(SET), reconciler.revoke(SET), rolled_out.reconcile(SET))
    await rolled_out.settle(SET)
    assert rolled_out.objects == {}
    assert len(rolled_out.changes) == 2
    assert writes(rolled_out) == {"DELETE": ROLLED_OUT, "PATCH": ROLLED_OUT}


async def test_a_start_with_all_identities_assigned_sends_no_azure_call_for_their_host(rolled_out: MicWorld) -> None:
    rolled_out.restart()
    rolled_out.host(vm_id("n1"), etag='"1"')
    rolled_out.add(node("n1"), pod("later", node="n1", label="demo-0"))
    await rolled_out.settle(*(host_state.key for host_state in rolled_out.view.host_states() if host_state.has_work))
    assert rolled_out.hosts.calls == ["get", "update"] * 2, "for the host of the later pod"
    assert writes(rolled_out) == {"POST": 1, "PATCH": 1}
