"""The conditions under which MIC detaches an identity from a VM or scale set, and `--detach-grace`: an unused identity
stays attached for some time, although NMI no longer serves it.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mic.azure.errors import Unreachable
from mic.decisions.policy import Policy
from mic.reconciliation.work_queue import PassResult
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import ClusterObject, binding, identity, identity_id, node, pod, set_id, set_node, vm_id


async def assigned(
    world: MicWorld, *pods: ClusterObject, policy: Policy | None = None, before: tuple[str, ...] = ()
) -> None:
    world.policy = policy or Policy()
    world.host(VM, *before)
    await world.settle_with(identity(), binding(), *pods)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((pod("other"),), id="another pod"),
        # reference: checkIfInUse compares the pod's name only
        pytest.param((pod(namespace="other"),), id="a pod of the same name in another namespace"),
        pytest.param(
            (
                identity("twin", resource_id=identity_id("DEMO")),
                binding("twin", identity="twin", selector="twin"),
                pod("other", label="twin"),
            ),
            id="another identity object with the same resource id",
        ),
    ],
)
async def test_another_use_on_the_vm_keeps_it_attached(world: MicWorld, other: tuple[ClusterObject, ...]) -> None:
    await assigned(world, pod(), *other)
    world.remove(pod())
    assert await world.steps() == ["revoke", "release"]
    assert world.attached(VM) == {"demo"}
    await world.settle_without(other[-1])
    assert world.attached(VM) == set()


async def test_a_pod_on_another_node_of_the_scale_set_keeps_it_attached(world: MicWorld) -> None:
    world.host(set_id())
    world.add(set_node("s0", 0), set_node("s1", 1), identity(), binding(), pod(node="s0"), pod("other", node="s1"))
    await world.settle(set_id())
    world.remove(pod())
    await world.settle(set_id())
    assert world.attached(set_id()) == {"demo"}
    world.remove(pod("other"))
    await world.settle(set_id())
    assert world.attached(set_id()) == set()


@pytest.mark.parametrize("adopt", [False, True])
async def test_an_identity_attached_before_mic_is_detached_only_by_a_flag(world: MicWorld, adopt: bool) -> None:
    await assigned(world, pod(), before=("demo", "stranger"), policy=Policy(adopt_existing=adopt))
    existing = world.objects["default", "web-default-demo"]
    assert existing.metadata.annotation("aadpodidentity.k8s.io/attached-by") == ("mic" if adopt else "foreign")
    assert world.changes == []
    await world.settle_without(pod())
    assert world.attached(VM) == ({"stranger"} if adopt else {"demo", "stranger"})
    assert world.objects == {}


async def test_an_identity_attached_before_mic_and_attached_again_by_mic_is_mics(world: MicWorld) -> None:
    await assigned(world, pod(), before=("demo",))
    world.host(VM)
    await world.settle()
    assert world.attached(VM) == {"demo"}
    await world.settle_without(pod())
    assert world.attached(VM) == set()


@pytest.mark.parametrize(
    ("immutable", "left"),
    [("client-demo", {"demo"}), (identity_id("demo").lower(), {"demo"}), ("other", set())],
    ids=["client-id", "resource-id", "another"],
)
async def test_an_immutable_identity_stays_attached(world: MicWorld, immutable: str, left: set[str]) -> None:
    await assigned(world, pod(), policy=Policy(immutable=frozenset({immutable})))
    await world.settle_without(pod())
    assert world.attached(VM) == left
    assert world.objects == {}


@pytest.mark.parametrize("client_id", ["client-demo", "CLIENT-Demo"])
@pytest.mark.parametrize("known_from", ["azure", "the object"])
async def test_an_immutable_client_id_is_recognised_in_any_case_in_azures_response_and_in_the_object(
    world: MicWorld, client_id: str, known_from: str
) -> None:
    world.policy = Policy(immutable=frozenset({"client-demo"}))
    await world.settle_with(
        identity(client_id=client_id if known_from == "the object" else "another"), binding(), pod()
    )
    world.host(VM, "demo", client_id=client_id if known_from == "azure" else "another")
    await world.settle_without(pod())
    assert world.attached(VM) == {"demo"}
    assert world.objects == {}


async def test_an_identity_used_together_with_an_immutable_one_is_detached_alone(world: MicWorld) -> None:
    await assigned(world, pod(), policy=Policy(immutable=frozenset({"client-demo"})))
    world.bind("other")
    await world.settle()
    await world.settle_without(pod(), pod("other"))
    assert world.attached(VM) == {"demo"}
    assert world.changes[-1].type == "UserAssigned"


async def test_no_identity_is_attached_before_its_record_is_written(world: MicWorld) -> None:
    world.add(identity(), binding(), pod())
    world.fail("get", Unreachable("no answer"))
    assert await world.steps() == ["create"]
    existing = world.objects["default", "web-default-demo"]
    assert existing.metadata.annotation("aadpodidentity.k8s.io/attached-by") == "", "Azure has not shown the owner"
    await asyncio.sleep(1.0)
    assert await world.steps() == ["setattachedby", "change", "confirm"]


async def test_two_hundred_identities_are_attached_in_two_updates_and_detached_in_two(world: MicWorld) -> None:
    names = [f"id{number}" for number in range(200)]
    world.bind(*names)
    await world.settle()
    assert [len(change.adds) for change in world.changes] == [150, 50]
    world.unbind(*names)
    await world.settle()
    assert [len(change.removes) for change in world.changes[2:]] == [150, 50]
    assert world.attached(VM) == set()
    assert world.objects == {}


async def test_the_record_survives_the_object_that_contains_it(world: MicWorld) -> None:
    await assigned(world, pod())
    await world.settle_with(pod("later"))
    await world.settle_without(pod())
    later = world.objects["default", "later-default-demo"]
    assert later.metadata.annotation("aadpodidentity.k8s.io/attached-by") == "mic"


async def test_a_vm_that_left_the_cluster_is_not_read(world: MicWorld) -> None:
    await assigned(world, pod())
    world.remove(pod())
    world.remove(node("n0"))
    await world.settle("node:n0")
    assert world.objects == {}
    assert world.attached(VM) == {"demo"}
    assert list(world.view.host_states()) == []


async def test_a_node_that_leaves_its_scale_set_leaves_no_identity_behind(world: MicWorld) -> None:
    world.host(set_id())
    world.add(set_node("s0", 0), set_node("s1", 1), identity(), binding(), pod(node="s0"))
    await world.settle(set_id())
    world.remove(set_node("s0", 0))
    world.remove(pod())
    await world.settle(set_id(), "node:s0")
    assert world.objects == {}
    assert world.attached(set_id()) == set()


async def test_no_object_is_released_while_an_operation_may_still_attach_its_identity(world: MicWorld) -> None:
    await assigned(world, pod())
    world.remove(pod())
    world.host(VM, provisioning_state="Updating")
    assert await world.steps() == ["revoke"]
    world.host(VM, provisioning_state="Failed")
    assert await world.steps() == ["release"]


async def test_an_identity_detached_by_another_program_is_attached_again(world: MicWorld) -> None:
    await assigned(world, pod())
    world.host(VM, "stranger")
    assert await world.steps() == ["change"]
    assert world.attached(VM) == {"demo", "stranger"}


async def test_an_object_states_that_azure_refuses_to_attach_its_detached_identity_again(world: MicWorld) -> None:
    await assigned(world, pod())
    world.host(VM)
    world.refuse("demo")
    assert await world.steps() == ["change", "explain"]
    assert world.statuses() == {"web-default-demo": "Created"}
    assert await world.steps() == []
    world.hosts.refused.clear()
    await asyncio.sleep(31.0)
    assert await world.steps() == ["change", "confirm"]


DEMO = identity_id("demo").lower()


@pytest.fixture
async def graceful() -> AsyncIterator[MicWorld]:
    async with MicWorld(grace_seconds=100.0) as made:
        yield made


async def test_the_object_is_revoked_at_once_and_the_identity_detached_after_the_grace(
    graceful: MicWorld,
) -> None:
    await graceful.assign()
    graceful.unbind()
    done = await graceful.reconcile()
    stored = graceful.api.store.get(ASSIGNED, "demo-default-demo", "default")
    assert stored["metadata"]["deletionTimestamp"], "NMI serves it no more"
    assert stored["metadata"]["finalizers"], "the record of whose it is outlives the detach"
    assert done.again_after == pytest.approx(100.0)
    calls = list(graceful.hosts.calls)
    await asyncio.sleep(99.0)
    assert (await graceful.reconcile()).again_after == pytest.approx(1.0)
    assert graceful.hosts.calls == calls, "no call to Azure until then"
    await asyncio.sleep(1.0)
    assert await graceful.reconcile() == PassResult()
    assert graceful.hosts.state.attached == {}
    assert graceful.statuses() == {}


async def test_a_pod_created_within_the_grace_period_is_assigned_without_an_azure_call(graceful: MicWorld) -> None:
    await graceful.assign()
    graceful.unbind()
    await graceful.reconcile()
    calls = list(graceful.hosts.calls)
    await asyncio.sleep(50.0)
    graceful.add(pod("next", label="demo"))
    assert await graceful.reconcile() == PassResult()
    assert graceful.hosts.calls == calls
    assert graceful.statuses() == {"next-default-demo": "Assigned"}, "the old object is deleted"
    record = graceful.api.store.get(ASSIGNED, "next-default-demo", "default")["metadata"]["annotations"]
    assert record["aadpodidentity.k8s.io/attached-by"] == "mic"


async def test_the_grace_period_starts_again_when_the_next_pod_ends(graceful: MicWorld) -> None:
    await graceful.assign()
    graceful.unbind()
    await graceful.reconcile()
    await asyncio.sleep(60.0)
    await graceful.assign()
    graceful.unbind()
    assert (await graceful.reconcile()).again_after == pytest.approx(100.0)
    await asyncio.sleep(60.0)
    await graceful.reconcile()
    assert DEMO in graceful.hosts.state.attached


async def test_another_update_of_the_host_does_not_detach_it_early(graceful: MicWorld) -> None:
    await graceful.assign()
    graceful.unbind()
    await graceful.assign("other")
    assert [(len(change.adds), len(change.removes)) for change in graceful.changes] == [(1, 0), (1, 0)]
    await asyncio.sleep(100.0)
    await graceful.reconcile()
    assert graceful.changes[-1].removes == (identity_id("demo"),)
    assert graceful.statuses() == {"other-default-other": "Assigned"}


async def test_a_new_leader_counts_from_its_first_read(graceful: MicWorld) -> None:
    await graceful.assign()
    graceful.unbind()
    await graceful.reconcile()
    await asyncio.sleep(90.0)
    graceful.restart()
    done = await graceful.reconcile()
    assert done.again_after == pytest.approx(100.0)
    assert DEMO in graceful.hosts.state.attached
    await asyncio.sleep(100.0)
    assert await graceful.reconcile() == PassResult()
    assert graceful.hosts.state.attached == {}


async def test_an_identity_detached_by_another_program_blocks_no_object(graceful: MicWorld) -> None:
    await graceful.assign()
    graceful.unbind()
    await graceful.reconcile()
    graceful.hosts.state = type(graceful.hosts.state)(etag='"9"')
    assert await graceful.look() == PassResult()
    assert graceful.statuses() == {}


async def test_a_pending_detach_of_an_updated_object_waits_too(graceful: MicWorld) -> None:
    graceful.host(vm_id("n1"))
    await graceful.settle_with(node("n1"), identity(), binding(), pod(uid="first"))
    graceful.add(pod(node="n1", uid="second"))
    await graceful.settle()
    assert await graceful.steps() == []
    assert graceful.attached(vm_id("n0")) == {"demo"}
    await asyncio.sleep(100.0)
    await graceful.settle()
    assert graceful.attached(vm_id("n0")) == set()
