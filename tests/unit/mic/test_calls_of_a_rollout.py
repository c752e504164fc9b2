"""The number of calls to Azure and to the API server that a rollout on one scale set causes."""

import asyncio
from collections import Counter

import pytest

from podidentity.resources import Pod
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.mic.world import MicWorld
from tests.support.objects import binding, identity, node, pod, set_id, set_node, vm_id

PODS, IDENTITIES, NODES = 60, 5, 3
SET = set_id().lower()


def pods(begin: int = 0) -> list[Pod]:
    numbers = range(begin, begin + PODS)
    return [pod(f"web-{each}", node=f"s{each % NODES}", label=f"demo-{each % IDENTITIES}") for each in numbers]


@pytest.fixture
async def writes(world: MicWorld) -> Counter[str]:
    """The requests that change AzureAssignedIdentities, by method, after the rollout on the scale set."""
    count: Counter[str] = Counter()

    def note(request: Recorded) -> None:
        if request.method != "GET" and "/azureassignedidentities" in request.path:
            count[request.method] += 1

    world.api.intercept = note
    world.host(set_id(), etag='"1"')
    world.add(*(set_node(f"s{number}", number) for number in range(NODES)), *pods())
    for number in range(IDENTITIES):
        name = f"demo-{number}"
        world.add(identity(name), binding(name, identity=name, selector=name))
    await world.settle(SET)
    assert [*world.statuses().values()] == ["Assigned"] * PODS
    return count


async def test_a_rollout_costs_one_update_and_at_most_two_writes_per_pod(world: MicWorld, writes: Counter[str]) -> None:
    assert world.hosts.calls == ["get", "update"]
    assert writes["POST"] == PODS
    assert sum(writes.values()) <= 2 * PODS


async def test_pods_of_attached_identities_cost_one_write_each_and_no_azure_call(
    world: MicWorld, writes: Counter[str]
) -> None:
    writes.clear()
    world.add(*pods(PODS))
    await world.settle(SET)
    assert writes == {"POST": PODS}
    assert world.hosts.calls == ["get", "update"]


async def test_the_end_of_all_pods_costs_one_update_and_two_writes_per_pod_though_each_is_planned_twice(
    world: MicWorld, writes: Counter[str]
) -> None:
    writes.clear()
    world.remove(*pods())
    await asyncio.gather(world.host_reconciler.revoke(SET), world.host_reconciler.revoke(SET), world.reconcile(SET))
    await world.settle(SET)
    assert world.objects == {}
    assert len(world.changes) == 2
    assert writes == {"DELETE": PODS, "PATCH": PODS}


async def test_a_start_with_all_identities_assigned_sends_no_azure_call_for_their_host(
    world: MicWorld, writes: Counter[str]
) -> None:
    writes.clear()
    world.restart()
    world.host(vm_id("n1"), etag='"1"')
    world.add(node("n1"), pod("later", node="n1", label="demo-0"))
    await world.settle(*(each.key for each in world.view.host_states() if each.has_work))
    assert world.hosts.calls == ["get", "update"] * 2, "for the host of the later pod"
    assert writes == {"POST": 1, "PATCH": 1}
