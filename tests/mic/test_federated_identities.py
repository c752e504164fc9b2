"""Identities of type 3 with the real program: MIC assigns them immediately, without any request to Azure."""

import json
import time

import pytest

from mic.decisions.assignments import misconfigured
from podidentity.resources import EXCHANGE_ANNOTATION
from podidentity_sandbox.kubeapi.history import Change
from tests.mic.emulated_cloud import ASSIGNED, IDENTITIES, EmulatedCloud
from tests.support.objects import identity, identity_id, set_id, vm_id

TEAM = "team"
OPERATION_SECONDS = 60.0
"""The duration of the update of the scale set."""


def team(cloud: EmulatedCloud, *, type_: int) -> None:
    """Create a namespace with an identity of this type and its binding. A federated one keeps its resource id."""
    cloud.api.store.create("namespaces", {"metadata": {"name": TEAM}})
    cloud.identity(namespace=TEAM, type=type_, tenantID="t")


def turn(cloud: EmulatedCloud, type_: int) -> None:
    """Give the identity another type and leave all else of it."""
    cloud.api.store.patch(IDENTITIES, "demo", {"spec": {"type": type_}}, TEAM)


def usable(cloud: EmulatedCloud) -> dict[str, int]:
    """Return the namespaces of the objects that NMI serves, by type."""
    return {
        each["metadata"]["namespace"]: each["spec"]["azureIdentityRef"]["spec"]["type"]
        for each in cloud.api.store.list(ASSIGNED)
        if each["status"]["status"] == "Assigned" and "deletionTimestamp" not in each["metadata"]
    }


async def test_a_federated_identity_is_assigned_in_its_own_namespace_without_resource_manager(
    cloud: EmulatedCloud,
) -> None:
    cloud.node("n0")
    cloud.node("s0", f"azure://{set_id()}/virtualMachines/0")
    cloud.api.store.create("nodes", {"metadata": {"name": "bare"}, "spec": {}})
    team(cloud, type_=3)
    seen: list[str] = []
    cloud.api.store.subscribe(ASSIGNED, lambda change: seen.append(change.item.document["status"]["status"]))
    await cloud.mic()
    for node in ("n0", "s0", "bare"):
        cloud.pod(f"on-{node}", node, namespace=TEAM)
    await cloud.until(lambda: len(cloud.assigned()) == 3)
    assert set(seen) == {"Assigned"}, "it is served from the first moment"
    assert {each["metadata"]["namespace"] for each in cloud.api.store.list(ASSIGNED)} == {TEAM}
    for node in ("n0", "s0", "bare"):
        cloud.remove_pod(f"on-{node}", TEAM)
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.arm.calls == []


async def test_a_federated_identity_does_not_wait_for_an_update_of_its_scale_set(cloud: EmulatedCloud) -> None:
    cloud.node("s0", f"azure://{set_id()}/virtualMachines/0")
    cloud.arm.vm(set_id()).operation_seconds = OPERATION_SECONDS
    team(cloud, type_=3)
    cloud.identity("slow")
    await cloud.mic()
    cloud.pod("slow", "s0", label="slow")
    await cloud.until(lambda: cloud.arm.vm(set_id()).updating)
    began = time.monotonic()
    cloud.pod("web", "s0", namespace=TEAM)
    await cloud.until(lambda: cloud.assigned().get("web-team-demo") == "Assigned")
    assert time.monotonic() - began < OPERATION_SECONDS / 2
    assert cloud.arm.vm(set_id()).updating
    assert len(cloud.arm.writes()) == 1


async def test_a_binding_of_another_namespace_assigns_nothing(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    team(cloud, type_=3)
    await cloud.mic()
    cloud.pod("stranger", "n0")
    cloud.pod("own", "n0", namespace=TEAM)
    await cloud.until(lambda: cloud.assigned() == {"own-team-demo": "Assigned"})
    cloud.pod("later", "n0", namespace=TEAM)
    await cloud.until(lambda: "later-team-demo" in cloud.assigned())
    assert "stranger-default-demo" not in cloud.assigned()


async def test_a_pod_whose_identity_becomes_federated_stays_assigned_and_the_vm_is_cleaned(
    cloud: EmulatedCloud,
) -> None:
    cloud.node("n0")
    team(cloud, type_=0)
    await cloud.mic()
    cloud.pod("web", "n0", namespace=TEAM)
    await cloud.until(lambda: usable(cloud) == {"default": 0})
    served: list[dict[str, int]] = []

    def look(_change: Change) -> None:
        served.append(usable(cloud))

    cloud.api.store.subscribe(ASSIGNED, look)
    turn(cloud, 3)
    await cloud.until(lambda: cloud.on(vm_id("n0")) == set() and len(cloud.assigned()) == 1)
    assert usable(cloud) == {TEAM: 3}
    assert all(served), "at each write the pod had one of the two"
    assert len(cloud.arm.writes()) == 2


async def test_changing_it_back_attaches_it_to_the_vm_again(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    team(cloud, type_=3)
    await cloud.mic()
    cloud.pod("web", "n0", namespace=TEAM)
    await cloud.until(lambda: usable(cloud) == {TEAM: 3})
    turn(cloud, 0)
    await cloud.until(lambda: usable(cloud) == {"default": 0} and len(cloud.assigned()) == 1)
    assert cloud.on(vm_id("n0")) == {"demo"}
    assert len(cloud.arm.writes()) == 1


async def test_pods_of_other_namespaces_lose_an_identity_that_becomes_federated(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    team(cloud, type_=0)
    await cloud.mic()
    cloud.pod("stranger", "n0")
    await cloud.until(lambda: cloud.assigned() == {"stranger-default-demo": "Assigned"})
    turn(cloud, 3)
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(vm_id("n0")) == set()


async def test_an_identity_that_only_nmi_refuses_is_assigned_like_a_service_principal() -> None:
    for type_ in (1, 2, 3):
        assert misconfigured(identity(type_=type_, resource_id="", client_id=" ")) == ""


@pytest.mark.parametrize("flag", [True, False])
async def test_an_in_place_change_of_a_namespaced_identity_stays_assigned(cloud: EmulatedCloud, *, flag: bool) -> None:
    cloud.node("n0")
    team(cloud, type_=0)
    if not flag:
        note = {"metadata": {"annotations": {"aadpodidentity.k8s.io/Behavior": "namespaced"}}}
        cloud.api.store.patch(IDENTITIES, "demo", note, TEAM)
    await cloud.mic(*(("--forceNamespaced",) if flag else ()))
    cloud.pod("web", "n0", namespace=TEAM)
    await cloud.until(lambda: usable(cloud) == {TEAM: 0})
    (before,) = cloud.api.store.list(ASSIGNED)
    statuses: list[str] = []
    cloud.api.store.subscribe(ASSIGNED, lambda change: statuses.append(change.item.document["status"]["status"]))
    turn(cloud, 3)
    await cloud.until(lambda: usable(cloud) == {TEAM: 3} and cloud.on(vm_id("n0")) == set())
    await cloud.until(lambda: _has_pending_detach(cloud) == [])
    (after,) = cloud.api.store.list(ASSIGNED)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert set(statuses) == {"Assigned"}


def _has_pending_detach(cloud: EmulatedCloud) -> list[list[str]]:
    """Return the pending detaches of the only object."""
    (each,) = cloud.api.store.list(ASSIGNED)
    written = each["metadata"]["annotations"].get("aadpodidentity.k8s.io/detach-pending", "[]")
    owed: list[list[str]] = json.loads(written)
    assert all(identity.lower() == identity_id("demo").lower() for _, identity in owed)
    return owed


async def test_a_changed_exchange_reaches_the_assigned_identity(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    team(cloud, type_=3)
    await cloud.mic()
    cloud.pod("web", "n0", namespace=TEAM)
    await cloud.until(lambda: usable(cloud) == {TEAM: 3})
    change_exchange(cloud, "identityBindings")
    await cloud.until(lambda: _exchange(cloud) == "identityBindings")
    change_exchange(cloud, None)
    await cloud.until(lambda: _exchange(cloud) is None)


def change_exchange(cloud: EmulatedCloud, value: str | None) -> None:
    cloud.api.store.patch(IDENTITIES, "demo", {"metadata": {"annotations": {EXCHANGE_ANNOTATION: value}}}, TEAM)


def _exchange(cloud: EmulatedCloud) -> str | None:
    (each,) = cloud.api.store.list(ASSIGNED)
    found: str | None = each["spec"]["azureIdentityRef"]["metadata"].get("annotations", {}).get(EXCHANGE_ANNOTATION)
    return found
