"""The conditions under which MIC detaches an identity from a VM or scale set, and those under which it does not."""

import asyncio

import pytest

from mic.azure.errors import Unreachable
from mic.decisions.policy import Policy
from tests.support.mic.world import VM, MicWorld
from tests.support.objects import ClusterObject, binding, identity, identity_id, node, pod, set_id, set_node


async def assigned(
    world: MicWorld, *pods: ClusterObject, policy: Policy | None = None, before: tuple[str, ...] = ()
) -> None:
    world.policy = policy or Policy()
    world.host(VM, *before)
    await world.settle_with(identity(), binding(), *pods)


async def test_the_identity_is_detached_with_its_last_pod(world: MicWorld) -> None:
    await assigned(world, pod())
    world.remove(pod())
    assert await world.steps() == ["revoke", "change", "release"]
    assert world.attached(VM) == set()
    assert world.objects == {}


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
async def test_another_use_of_the_identity_on_the_vm_keeps_it_attached(
    world: MicWorld, other: tuple[ClusterObject, ...]
) -> None:
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
async def test_an_identity_attached_before_mic_is_detached_only_if_the_operator_says_so(
    world: MicWorld, adopt: bool
) -> None:
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


async def test_no_identity_is_attached_before_its_record_is_written(world: MicWorld) -> None:
    world.add(identity(), binding(), pod())
    world.fail("get", Unreachable("no answer"))
    assert await world.steps() == ["create"]
    existing = world.objects["default", "web-default-demo"]
    assert existing.metadata.annotation("aadpodidentity.k8s.io/attached-by") == ""
    await asyncio.sleep(1.0)
    assert await world.steps() == ["setattachedby", "change", "confirm"]


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


async def test_the_objects_of_a_vm_deleted_on_azure_are_released(world: MicWorld) -> None:
    await assigned(world, pod())
    world.remove(pod())
    await world.lose(VM)
    await world.settle()
    assert world.objects == {}


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


async def test_all_identities_are_detached_in_one_update(world: MicWorld) -> None:
    world.bind(*(f"id{number}" for number in range(20)))
    await world.settle()
    assert len(world.changes) == 1
    world.unbind(*(f"id{number}" for number in range(10)))
    world.bind("more")
    await world.settle()
    assert len(world.changes) == 2
    assert (len(world.changes[1].adds), len(world.changes[1].removes)) == (1, 10)
