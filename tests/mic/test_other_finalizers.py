"""An AzureAssignedIdentity that another client's finalizer keeps after MIC has released it, on the emulator."""

from mic.azure.identities import Attached, HostIdentities
from podidentity.resources import FINALIZER
from tests.mic.cluster import identity_id, pod
from tests.mic.emulated_cloud import ASSIGNED
from tests.mic.reconcile_bench import VM, reconcile_bench

OBJECT = "demo-default-demo"
THERE = HostIdentities(type="UserAssigned", attached={identity_id("demo").lower(): Attached(identity_id("demo"))})


async def test_an_identity_that_another_program_attaches_later_is_not_reported() -> None:
    async with reconcile_bench() as stage:
        stage.bind()
        await stage.reconcile()
        stage.api.store.patch(ASSIGNED, OBJECT, {"metadata": {"finalizers": [FINALIZER, "example.com/it"]}}, "default")
        stage.unbind()
        for _ in range(3):
            await stage.reconcile()
        assert stage.api.store.get(ASSIGNED, OBJECT, "default")["metadata"]["finalizers"] == ["example.com/it"]
        assert not stage.hosts.state.attached

        stage.hosts.state = THERE
        stage.host_reconciler.look_again(VM)
        await stage.reconcile()
        assert stage.hosts.state.attached, "not MIC's to take off"

        stage.view.pods.upserted(None, pod("demo", uid="second"))
        await stage.reconcile()
        (fresh,) = [each for each in stage.api.store.list(ASSIGNED) if each["metadata"]["name"] != OBJECT]
        assert fresh["metadata"]["annotations"]["aadpodidentity.k8s.io/attached-by"] == "foreign"
