"""Objects of the Go implementation are in sync for MIC, and the Go implementation can read those of MIC."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mic.startup.spellings import KINDS, respelled
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES
from tests.support.mic.go_objects import CASES, cleared, load, read, written
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import identity_id, pod

BY_NAME = {kind.name: kind for kind in KINDS}

Documents = Mapping[str, dict[str, Any]]


async def taken_over(world: MicWorld, case: Documents) -> list[str]:
    """Let MIC find the objects of the case. Return the steps of its first pass."""
    world.host(VM, "demo")
    world.client.old_field_names = True
    world.add(pod(), read(IDENTITIES, case["AzureIdentity"]), read(BINDINGS, case["AzureIdentityBinding"]))
    world.api.store.create(ASSIGNED, cleared(case["AzureAssignedIdentity"], "default"))
    stored = world.api.store.get(ASSIGNED, "web-default-demo", "default")
    world.view.assigned.upserted(None, read(ASSIGNED_IDENTITIES, stored))
    return await world.steps()


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
async def test_assignments_of_the_go_implementation_are_in_sync(world: MicWorld, path: Path) -> None:
    assert await taken_over(world, load(path)) == []
    assert world.statuses() == {"web-default-demo": "Assigned"}
    await world.settle_without(pod())
    principal = "service-principal" in path.stem
    assert world.attached(VM) == ({"demo"} if principal else set()), "MIC owns what the Go implementation attached"
    assert world.objects == {}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
async def test_they_stay_in_sync_in_any_order_of_upgrades(path: Path) -> None:
    case = load(path)
    for name in case:
        upgraded = respelled(BY_NAME[name], case[name])
        assert (upgraded is not None) == path.stem.startswith("v1.5")
        if upgraded is not None:
            case[name] = upgraded
            async with MicWorld() as world:
                assert await taken_over(world, case) == []


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
async def test_an_outdated_assignment_of_the_go_implementation_is_updated(world: MicWorld, path: Path) -> None:
    case = load(path)
    spec = case["AzureIdentity"]["spec"]
    spec["TenantID" if "ClientID" in spec else "tenantID"] = "another"
    assert await taken_over(world, case) == ["update"]
    (assigned,) = world.objects.values()
    assert assigned.spec.azure_identity_ref.spec.tenant_id == "another"
    assert assigned.status.status == "Assigned"


def test_the_go_implementation_finds_each_field_where_it_reads_it() -> None:
    spec = written()["spec"]
    looked_for = {
        ("azureIdentityRef", "metadata", "name"): "demo",
        ("azureIdentityRef", "metadata", "namespace"): "default",
        # It assigns again what is not a copy of this version.
        ("azureIdentityRef", "metadata", "resourceVersion"): "7",
        ("azureBindingRef", "metadata", "resourceVersion"): "7",
        ("azureIdentityRef", "metadata", "annotations", "aadpodidentity.k8s.io/Behavior"): "namespaced",
        ("azureIdentityRef", "spec", "type"): 0,
        ("azureIdentityRef", "spec", "clientID"): "client-demo",
        ("azureIdentityRef", "spec", "resourceID"): identity_id("demo"),
        ("azureBindingRef", "metadata", "name"): "demo-binding",
        ("azureBindingRef", "spec", "azureIdentity"): "demo",
        ("azureBindingRef", "spec", "selector"): "demo",
        ("pod",): "web",
        ("podNamespace",): "default",
        ("nodename",): "n0",
    }
    for path, value in looked_for.items():
        found: Any = spec
        for part in path:
            found = found[part]
        assert found == value
    assert written()["status"] == {"status": "Created", "availableReplicas": 1}
    assert written()["metadata"]["labels"] == {"nodename": "n0"}
    assert written()["metadata"]["finalizers"] == ["azureassignedidentity.finalizers.aadpodidentity.k8s.io"]
    assert written()["metadata"]["annotations"] == {
        "aadpodidentity.k8s.io/pod-uid": "uid-default-web",
        "aadpodidentity.k8s.io/attached-by": "mic",
    }
