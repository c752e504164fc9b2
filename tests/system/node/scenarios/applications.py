"""Identities, bindings and pods of one test, for the end-to-end tests."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from tests.system.node import client, manifests
from tests.system.node.bed import Bed
from tests.system.node.processes import wait_for

SLEEP: Final = ["sleep", "3600"]
SECONDS: Final = 60
_numbers = itertools.count()


class Applications:
    """Identities, bindings and pods of one test in its own *namespace*, deleted at the end."""

    def __init__(self, bed: Bed, namespace: str) -> None:
        self.bed = bed
        self.namespace = namespace
        self.machine = bed.azure.machine(bed.nodes[0].vm)

    def create_identity(self, name: str) -> ManagedIdentity:
        """Create an identity on Azure."""
        return self.bed.azure.call(lambda emulator: emulator.directory.add_identity(identity_id(name)))

    def bind(self, name: str) -> None:
        """Create an identity, its AzureIdentity and the binding with the selector *name*."""
        made = self.create_identity(name)
        self.bed.apply(
            manifests.identity(name, made.resource_id, made.client_id, namespace=self.namespace),
            manifests.binding(name, namespace=self.namespace),
        )

    def run(self, name: str, selector: str, **spec: Any) -> None:
        """Create a pod and wait until it runs."""
        self.bed.apply(self.pod(name, selector, **spec))
        self.wait(name)

    def pod(self, name: str, selector: str, **spec: Any) -> manifests.Manifest:
        return manifests.pod(name, SLEEP, labels={"aadpodidbinding": selector}, namespace=self.namespace, **spec)

    def wait(self, *names: str) -> None:
        pods = [f"pod/{name}" for name in names]
        self.kubectl("wait", "--for=condition=Ready", *pods, f"--timeout={SECONDS}s")

    def kubectl(self, *arguments: str) -> str:
        return self.bed.kubectl(*arguments, f"--namespace={self.namespace}")

    def eventually(self, pod: str, identity: str) -> None:
        """Wait for the pod's first response with a token of *identity*."""
        client.eventually(self.bed, pod, identity, namespace=self.namespace, seconds=SECONDS)

    def attached(self) -> frozenset[str]:
        """The names of the identities on the node's VM."""
        identities = self.bed.azure.call(lambda _: self.machine.identities)
        return frozenset(each.rpartition("/")[2] for each in identities)

    def wait_for_detached(self, *names: str) -> None:
        wait_for(lambda: self.attached().isdisjoint(names), SECONDS, f"{names} not detached: {self.attached()}")

    def assigned(self) -> list[str]:
        """The states of the AzureAssignedIdentities of this namespace's pods."""
        found = self.bed.objects("azureassignedidentities", "--all-namespaces")
        return [each["status"]["status"] for each in found if each["spec"]["podNamespace"] == self.namespace]


@contextmanager
def applications(bed: Bed) -> Iterator[Applications]:
    """Create a namespace for one test, and delete it with all objects at the end."""
    namespace = f"e2e-{next(_numbers)}"
    bed.kubectl("create", "namespace", namespace)
    bed.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={namespace}", f"--timeout={SECONDS}s")
    try:
        yield Applications(bed, namespace)
    finally:
        # Without its pods no test depends on the namespace, whose deletion takes ten seconds.
        bed.kubectl("delete", "pods", "--all", f"--namespace={namespace}", f"--timeout={SECONDS}s")
        bed.kubectl("delete", "namespace", namespace, "--wait=false")
