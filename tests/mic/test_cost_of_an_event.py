"""The cost of an event depends on the objects that it changes, not on the size of the cluster.

Function calls are counted, because times depend on the machine's load. Excluded: bytes and time;
`benchmarks/controller` measures those up to 100,000 pods.
"""

import gc
import sys
from collections import defaultdict
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from podidentity.resources import Node, Pod
from tests.mic.cluster import Cluster, binding, identity, node, pod, set_node, vm_id

SMALL, LARGE = 100, 10_000
NODES_OF_A_SET = 5


def cluster(pods: int) -> Cluster:
    """Ten pods on a node, twenty for a binding, every object Assigned; half of the nodes belong to scale sets."""
    made = Cluster()
    for number in range(pods // 20):
        name = f"identity-{number}"
        made.add(identity(name), binding(f"binding-{number}", identity=name, selector=name))
    on: defaultdict[str, set[str]] = defaultdict(set)
    for number in range(pods // 10):
        made.add(a_node(number))
        labels = (a_pod(number * 10 + each, pods).binding_label for each in range(10))
        on[made.view.host_key_of_node(f"n{number}")].update(labels)
    for host, names in on.items():
        made.host(host, *names)
    for number in range(pods):
        made.add(a_pod(number, pods))
    for host_state in [*made.view.host_states()]:
        made.reconcile_until_in_sync(host_state.key)
    made.dirty.clear()
    return made


def a_node(number: int) -> Node:
    if number % 2:
        return set_node(f"n{number}", number, f"pool{number // 2 // NODES_OF_A_SET}")
    return node(f"n{number}", f"azure://{vm_id(f'n{number}')}")


def a_pod(number: int, pods: int, **more: Any) -> Pod:
    return pod(f"pod-{number}", node=f"n{number // 10}", label=f"identity-{number % (pods // 20)}", **more)


def calls(work: Callable[[], object]) -> int:
    """How many functions *work* calls, Python's and C's."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    gc.collect()
    gc.disable()  # a collection calls finalizers of other tests' objects, and Hypothesis' callback
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


@pytest.fixture(scope="module")
def sizes() -> dict[int, Cluster]:
    return {size: cluster(size) for size in (SMALL, LARGE)}


def heartbeat_of_a_pod(made: Cluster, pods: int) -> int:
    old = a_pod(7, pods)
    return calls(lambda: made.view.pods.upserted(old, a_pod(7, pods)))


def heartbeat_of_a_node(made: Cluster, pods: int) -> int:
    return calls(lambda: made.view.nodes.upserted(a_node(1), a_node(1)))


def own_write_seen_again(made: Cluster, pods: int) -> int:
    (existing,) = (each for each in made.objects.values() if each.spec.pod == "pod-7")
    return calls(lambda: made.view.assigned.upserted(existing, existing))


def a_pod_that_finishes_and_runs_again(made: Cluster, pods: int) -> int:
    old, over = a_pod(7, pods), a_pod(7, pods, phase="Succeeded")

    def both() -> None:
        made.view.pods.upserted(old, over)
        made.view.pods.upserted(over, old)

    return calls(both)


@pytest.mark.parametrize(
    "event", [heartbeat_of_a_pod, heartbeat_of_a_node, own_write_seen_again, a_pod_that_finishes_and_runs_again]
)
def test_an_event_costs_the_same_in_a_cluster_that_is_a_hundred_times_larger(
    sizes: dict[int, Cluster], event: Callable[[Cluster, int], int]
) -> None:
    small, large = (event(sizes[size], size) for size in (SMALL, LARGE))
    assert 0 < small < 500
    assert large <= small * 1.2


def test_an_unrelated_event_causes_no_work(sizes: dict[int, Cluster]) -> None:
    made = sizes[LARGE]
    made.dirty.clear()
    heartbeat_of_a_pod(made, LARGE)
    heartbeat_of_a_node(made, LARGE)
    own_write_seen_again(made, LARGE)
    assert made.dirty == []


def test_a_reconcile_pass_costs_its_host_and_not_the_cluster(sizes: dict[int, Cluster]) -> None:
    def one(size: int) -> int:
        made = sizes[size]
        newcomer = pod("newcomer", node="n2", label=a_pod(20, size).binding_label)
        made.add(newcomer)
        try:
            return calls(lambda: made.reconcile_until_in_sync(vm_id("n2").lower()))
        finally:
            made.remove(newcomer)
            made.reconcile_until_in_sync(vm_id("n2").lower())

    assert one(LARGE) <= one(SMALL) * 1.2
