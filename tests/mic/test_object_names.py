"""Names of AzureAssignedIdentities that would be ambiguous or too long (reference: one object for both, #1065)."""

from mic.decisions.assignments import AssignmentKey
from mic.decisions.documents import NAME_MAX, distinct_name, plain_name
from tests.support.mic import VM, MicWorld
from tests.support.objects import binding, identity, identity_id, pod


async def test_two_pods_whose_joined_names_are_equal_both_get_their_object(world: MicWorld) -> None:
    await world.settle_with(identity(), binding(), pod("a-b", namespace="c"))
    world.add(pod("a", namespace="b-c"))
    await world.settle()
    newcomer = distinct_name(AssignmentKey("b-c", "a", "default", "demo"))
    assert world.statuses() == {"a-b-c-demo": "Assigned", newcomer: "Assigned"}
    assert newcomer.startswith("a-b-c-demo-")
    assert len(newcomer) == len("a-b-c-demo-") + 10


async def test_concurrently_created_pods_never_share_an_object_name(world: MicWorld) -> None:
    await world.settle_with(identity(), binding(), pod("a-b", namespace="c"), pod("a", namespace="b-c"))
    assert len(world.objects) == 2


async def test_two_identities_of_one_name_in_two_namespaces_both_work(world: MicWorld) -> None:
    for namespace in ("one", "two"):
        resource_id = identity_id(f"in-{namespace}")
        world.add(identity(namespace=namespace, resource_id=resource_id), binding(namespace=namespace))
    await world.settle_with(pod())
    assert len(world.objects) == 2
    assert world.attached(VM) == {"in-one", "in-two"}


async def test_a_name_over_the_limit_is_truncated_and_made_unique(world: MicWorld) -> None:
    world.add(identity(), binding())
    for end in "xy":
        world.add(pod("p" * 250 + end))
    await world.settle()
    assert len(world.objects) == 2
    assert all(len(name) == NAME_MAX for _, name in world.objects)


async def test_a_name_of_exactly_the_limit_is_not_changed(world: MicWorld) -> None:
    key = AssignmentKey("default", "p" * (NAME_MAX - len("-default-demo")), "default", "demo")
    assert len(plain_name(key)) == NAME_MAX
    await world.settle_with(identity(), binding(), pod(key.pod))
    assert list(world.objects) == [("default", plain_name(key))]


async def test_a_pod_that_returns_while_its_old_object_is_terminating_gets_another_name_immediately(
    world: MicWorld,
) -> None:
    await world.settle_with(identity(), binding(), pod(uid="first"))
    existing = world.existing("web-default-demo")
    world.remove(pod())
    await world.host_reconciler.revoke(VM)
    world.add(pod(uid="second"))
    assert await world.steps() == ["create", "release"]
    (left,) = world.objects
    assert left == ("default", distinct_name(existing.assignment_key))
    assert len(world.changes) == 1, "the identity must not leave the VM in between"


async def test_an_assignment_that_returns_while_both_its_names_are_taken_gets_a_third_one() -> None:
    again = binding("again", namespace="team")
    async with MicWorld(grace_seconds=100.0) as world:
        await world.settle_with(identity(), binding(), pod())
        world.add(identity(namespace="team", resource_id=identity_id("other"), client_id="client-other"), again)
        await world.settle()
        assert len(world.objects) == 2
        world.remove(again)
        assert await world.steps() == ["revoke"]
        world.add(again)
        assert await world.steps() == ["create", "release"]
        assert set(world.statuses().values()) == {"Assigned"}
        assert world.attached(VM) == {"demo", "other"}
        assert len(world.changes) == 2
