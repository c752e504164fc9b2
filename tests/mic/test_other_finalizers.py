"""An AzureAssignedIdentity that another client's finalizer keeps after MIC has released it, on the emulator."""

from mic.azure.identities import Attached, HostIdentities
from podidentity.resources import FINALIZER
from tests.support.mic import ASSIGNED, VM, MicWorld
from tests.support.objects import identity_id, pod

OBJECT = "demo-default-demo"
THERE = HostIdentities(type="UserAssigned", attached={identity_id("demo").lower(): Attached(identity_id("demo"))})


async def test_an_identity_that_another_program_attaches_later_is_not_reported() -> None:
    async with MicWorld() as world:
        world.bind()
        await world.reconcile()
        world.api.store.patch(ASSIGNED, OBJECT, {"metadata": {"finalizers": [FINALIZER, "example.com/it"]}}, "default")
        world.unbind()
        for _ in range(3):
            await world.reconcile()
        assert world.api.store.get(ASSIGNED, OBJECT, "default")["metadata"]["finalizers"] == ["example.com/it"]
        assert not world.hosts.state.attached

        world.hosts.state = THERE
        world.host_reconciler.look_again(VM)
        await world.reconcile()
        assert world.hosts.state.attached, "not MIC's to take off"

        world.add(pod("demo", uid="second"))
        await world.reconcile()
        (fresh,) = [each for each in world.api.store.list(ASSIGNED) if each["metadata"]["name"] != OBJECT]
        assert fresh["metadata"]["annotations"]["aadpodidentity.k8s.io/attached-by"] == "foreign"
