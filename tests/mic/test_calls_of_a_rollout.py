"""The number of calls to Azure and to the API server that a rollout causes, counted by the emulators."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.support.objects import set_id, vm_id

PODS = 60
IDENTITIES = 5
NODES = 3


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        for number in range(NODES):
            made.node(f"s{number}", f"azure://{set_id()}/virtualMachines/{number}")
        for number in range(IDENTITIES):
            made.identity(f"demo-{number}")
        yield made


@pytest.fixture
def writes(cloud: EmulatedCloud) -> Counter[str]:
    """Requests by MIC that change AzureAssignedIdentities, by method."""
    count: Counter[str] = Counter()

    def note(request: Recorded) -> None:
        if request.method != "GET" and "/azureassignedidentities" in request.path:
            count[request.method] += 1

    cloud.api.intercept = note
    return count


def roll_out(cloud: EmulatedCloud, begin: int = 0, count: int = PODS) -> None:
    for number in range(begin, begin + count):
        cloud.pod(f"web-{number}", f"s{number % NODES}", label=f"demo-{number % IDENTITIES}")


async def all_assigned(cloud: EmulatedCloud, count: int) -> None:
    await cloud.until(lambda: [*cloud.assigned().values()] == ["Assigned"] * count, f"{count} Assigned")


async def test_a_rollout_on_one_scale_set_costs_one_update_and_at_most_two_writes_per_pod(
    cloud: EmulatedCloud, writes: Counter[str]
) -> None:
    await cloud.mic()
    roll_out(cloud)
    await all_assigned(cloud, PODS)
    assert len(cloud.arm.writes()) == 1
    assert len(cloud.arm.reads()) == 2, "one before the update, one at its end"
    assert writes["POST"] == PODS
    assert sum(writes.values()) <= 2 * PODS


async def test_pods_of_attached_identities_cost_one_write_each_and_no_azure_call(
    cloud: EmulatedCloud, writes: Counter[str]
) -> None:
    await cloud.mic()
    roll_out(cloud)
    await all_assigned(cloud, PODS)
    writes.clear()
    before = len(cloud.arm.calls)
    roll_out(cloud, PODS)
    await all_assigned(cloud, 2 * PODS)
    assert writes == {"POST": PODS}
    assert len(cloud.arm.calls) == before


async def test_a_scale_set_that_loses_all_pods_costs_one_update_and_two_writes_per_pod(
    cloud: EmulatedCloud, writes: Counter[str]
) -> None:
    await cloud.mic()
    roll_out(cloud)
    await all_assigned(cloud, PODS)
    writes.clear()
    updates = len(cloud.arm.writes())
    for number in range(PODS):
        cloud.remove_pod(f"web-{number}")
    await cloud.until(lambda: not cloud.assigned())
    assert len(cloud.arm.writes()) == updates + 1
    assert writes == {"DELETE": PODS, "PATCH": PODS}


async def test_a_queued_revocation_is_sent_once(cloud: EmulatedCloud, writes: Counter[str]) -> None:
    await cloud.mic("--clientQps=40", "--client-burst=1")
    roll_out(cloud, count=20)
    await all_assigned(cloud, 20)
    writes.clear()
    for number in range(20):
        cloud.remove_pod(f"web-{number}")
    await cloud.until(lambda: not cloud.assigned())
    assert writes["DELETE"] == 20, "later passes, while revocations wait, plan the same deletions"


async def test_a_start_with_all_identities_assigned_sends_no_azure_call(
    cloud: EmulatedCloud, writes: Counter[str]
) -> None:
    first = await cloud.mic()
    roll_out(cloud)
    await all_assigned(cloud, PODS)
    assert await first.stop() == 0
    writes.clear()
    before = len(cloud.arm.calls)
    await cloud.mic()
    # Something that is done only after everything before it: another host's pod.
    cloud.node("n0")
    cloud.pod("later", "n0", label="demo-0")
    await all_assigned(cloud, PODS + 1)
    assert {call.path for call in cloud.arm.calls[before:] if "/locations/" not in call.path} == {vm_id("n0")}
    assert writes == {"POST": 1, "PATCH": 1}
