"""The chart on a cluster with the objects of the Go implementation's chart 4.1.18: its CRDs and assignments."""

import time
from typing import Any

import pytest
import yaml

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.machines import IdentityChange, Machine, Operation
from tests.realnode import client, manifests
from tests.realnode.bed import Bed
from tests.realnode.options import Options
from tests.realnode.programs import ROOT

pytestmark = pytest.mark.long

NAME = "adopted"
SECONDS_AFTER = 20.0
"""Time after the installation in which MIC must not detach the identity."""
FIRST_TOKEN_SECONDS = 5.0
CRDS = ROOT / "tests" / "mic" / "reference" / "crds.yaml"


def assignment(identity: ManagedIdentity, node: str) -> dict[str, Any]:
    """Return the AzureAssignedIdentity of the pod `app`, as the Go implementation's MIC writes it."""
    return {
        "apiVersion": manifests.GROUP,
        "kind": "AzureAssignedIdentity",
        "metadata": {
            "name": f"app-default-{NAME}",
            "namespace": "default",
            "labels": {"nodename": node},
            "finalizers": ["azureassignedidentity.finalizers.aadpodidentity.k8s.io"],
        },
        "spec": {
            "azureIdentityRef": manifests.identity(NAME, identity.resource_id, identity.client_id),
            "azureBindingRef": manifests.binding(NAME),
            "pod": "app",
            "podNamespace": "default",
            "nodename": node,
            "replicas": 1,
        },
        "status": {"status": "Assigned", "availableReplicas": 1},
    }


def record_changes(bed: Bed, machine: Machine) -> list[frozenset[str]]:
    """Return a list that gets the identities of each later change of the VM."""
    changes: list[frozenset[str]] = []
    update = machine.update

    def recorded(change: IdentityChange) -> Operation:
        changes.append(frozenset(change.user_assigned))
        return update(change)

    bed.azure.call(lambda _: setattr(machine, "update", recorded))
    return changes


def test_assignments_of_the_go_implementation_are_adopted() -> None:
    with Bed(Options()) as bed:
        node = bed.nodes[0]
        machine = bed.azure.machine(node.vm)
        identity = bed.azure.call(lambda emulator: emulator.directory.add_identity(identity_id(NAME)))
        bed.azure.call(lambda _: machine.attach(identity))
        bed.apply(*yaml.safe_load_all(CRDS.read_text()))
        bed.kubectl("wait", "--for=condition=Established", "customresourcedefinitions", "--all", "--timeout=60s")
        bed.apply(
            manifests.identity(NAME, identity.resource_id, identity.client_id),
            manifests.binding(NAME),
            manifests.pod("app", ["sleep", "3600"], labels={"aadpodidbinding": NAME}, nodeName=node.name),
            assignment(identity, node.name),
        )
        bed.kubectl("wait", "--for=condition=Ready", "pod/app", "--timeout=60s")
        (before,) = bed.objects("azureassignedidentities", "--namespace=default")
        changes = record_changes(bed, machine)

        bed.install()
        begin = time.monotonic()
        response = client.token(bed, "app")
        seconds = time.monotonic() - begin
        assert (response.status, response.identity) == (200, NAME), response
        assert seconds < FIRST_TOKEN_SECONDS, "the assignment exists, so that NMI need not wait for MIC"

        time.sleep(SECONDS_AFTER)
        (after,) = bed.objects("azureassignedidentities", "--namespace=default")
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["status"]["status"] == "Assigned"
        assert all(identity.resource_id.lower() in each for each in changes), changes
        assert identity.resource_id.lower() in machine.identities
