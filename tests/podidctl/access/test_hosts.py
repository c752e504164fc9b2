"""Identities that are attached to VMs and scale sets, and their explanations."""

from podidctl.access.cluster_objects import AzureState
from podidctl.access.schema import AccessReview, Explained, Host
from podidentity.azure.errors import Refused
from podidentity.azure.resource_ids import parse_provider_id
from tests.podidctl.access.small_cluster import (
    KUBELET,
    SCALE_SET,
    STRANGE,
    VM,
    attached,
    identity_id,
    node,
    on_azure,
    reviewed,
)

PAYMENTS = identity_id("payments")


def host(found: AccessReview, kind: str) -> Host:
    (one,) = (each for each in found.hosts if each.kind == kind)
    return one


def explained(found: Host) -> dict[str, Explained]:
    return {each.resource_id: each.explained for each in found.attached}


def test_each_identity_of_a_vm_is_explained_or_not() -> None:
    vm = host(reviewed(), "VM")
    assert explained(vm) == {PAYMENTS: Explained.PODS, KUBELET: Explained.CLUSTER, STRANGE: Explained.NOTHING}
    assert (vm.read, vm.system_assigned) == (True, True)
    assert {each.resource_id: (each.identities, each.pods) for each in vm.attached}[PAYMENTS] == (["shop/payments"], 1)


def test_the_nodes_of_a_scale_set_are_one_host() -> None:
    pool = host(reviewed(), "scale set")
    assert (pool.nodes, pool.system_assigned) == (["node-1", "node-2"], False)


def test_an_assignment_that_no_binding_explains_is_reported_as_such() -> None:
    vm = host(reviewed(bindings=()), "VM")
    assert explained(vm)[PAYMENTS] is Explained.ASSIGNMENT


def test_ids_are_compared_without_case() -> None:
    vm = host(reviewed(azure=on_azure(vm=attached(PAYMENTS.upper()))), "VM")
    assert explained(vm) == {PAYMENTS.upper(): Explained.PODS}


def test_without_azure_only_what_the_cluster_shows_is_listed() -> None:
    found = reviewed(azure=None)
    vm = host(found, "VM")
    assert explained(vm) == {PAYMENTS: Explained.PODS}
    assert (vm.read, vm.system_assigned, found.azure, found.summary.unexplained) == (False, None, "not read", None)
    assert found.unknown == [], "the operator did not ask for Azure"


def test_a_host_that_azure_does_not_return_is_unknown() -> None:
    known = parse_provider_id(VM)
    assert known is not None
    answers = {**on_azure(pool=attached(KUBELET)).answers, known.key: Refused("no role", status=403)}
    found = reviewed(azure=AzureState(answers))
    vm = host(found, "VM")
    assert not vm.read
    assert "403" in vm.problem
    assert (found.azure, found.summary.unexplained) == ("partly read", None)
    (unknown,) = found.unknown
    assert (unknown.part, "Reader" in unknown.right) == ("azure", True)


def test_a_node_without_a_provider_id_is_a_host_of_its_own() -> None:
    found = reviewed(nodes=(node("node-0", ""), node("node-1", f"{SCALE_SET}/virtualMachines/1")))
    assert {each.id for each in found.hosts} == {"node:node-0", SCALE_SET}
