"""Identities, bindings and pods of one test, for the end-to-end tests."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.system.node import client, manifests
from tests.system.node.bed import Bed
from tests.system.node.processes import wait_for

SECONDS: Final = 60
_numbers = itertools.count()


class Applications:
    """Identities, bindings and pods of one test in its own *namespace*, deleted at the end."""

    def __init__(self, bed: Bed, namespace: str) -> None:
        self.bed = bed
        self.namespace = namespace
        self.machine = bed.azure.machine(bed.nodes[0].vm)

    def bind(self, name: str) -> None:
        """Create an identity on Azure, its AzureIdentity and the binding with the selector *name*."""
        made = self.bed.azure.add_identity(name)
        self.bed.apply(
            manifests.identity(name, made.resource_id, made.client_id, namespace=self.namespace),
            manifests.binding(name, namespace=self.namespace),
        )

    def run(self, name: str, selector: str, **spec: Any) -> None:
        """Create a pod and wait until it runs."""
        self.bed.apply(self.pod(name, selector, **spec))
        self.bed.wait_for_pods(name, namespace=self.namespace)

    def bind_and_run(self, name: str, **spec: Any) -> None:
        """Create a pod with an identity of its name, and wait for its first token."""
        self.bind(name)
        self.run(name, name, **spec)
        self.eventually(name, name)

    def pod(self, name: str, selector: str, **spec: Any) -> manifests.Manifest:
        return manifests.pod(name, selector=selector, namespace=self.namespace, **spec)

    def delete(self, *objects: str) -> None:
        self.bed.kubectl("delete", *objects, f"--namespace={self.namespace}", f"--timeout={SECONDS}s")

    def request(self, pod: str, path: str, **options: Any) -> client.Response:
        return client.request(self.bed, pod, path, namespace=self.namespace, **options)

    def eventually(self, pod: str, identity: str) -> None:
        """Wait for the pod's first response with a token of *identity*."""
        client.eventually(self.bed, pod, identity, namespace=self.namespace)

    def attached(self) -> frozenset[str]:
        """The names of the identities on the node's VM."""
        identities = self.bed.azure.call(lambda _: self.machine.identities)
        return frozenset(identity.rpartition("/")[2] for identity in identities)

    def wait_for_detached(self, name: str) -> None:
        wait_for(lambda: name not in self.attached(), SECONDS, f"{name} not detached: {self.attached()}")

    def assigned(self) -> list[str]:
        """The states of the AzureAssignedIdentities of this namespace's pods."""
        assignments = self.bed.assignments()
        return [
            assignment["status"]["status"]
            for assignment in assignments
            if assignment["spec"]["podNamespace"] == self.namespace
        ]

    def wait_for_assignments(self, count: int, seconds: float = SECONDS) -> None:
        """Wait until this namespace's pods have this number of assignments, all complete."""
        wait_for(lambda: self.assigned() == ["Assigned"] * count, seconds, f"not {count} assignments")


@contextmanager
def applications(bed: Bed) -> Iterator[Applications]:
    """Create a namespace for one test, and delete it with all objects at the end."""
    namespace = f"e2e-{next(_numbers)}"
    bed.kubectl("create", "namespace", namespace)
    bed.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={namespace}", f"--timeout={SECONDS}s")
    made = Applications(bed, namespace)
    try:
        yield made
    finally:
        # Without its pods no test depends on the namespace, whose deletion takes ten seconds.
        made.delete("pods", "--all")
        bed.kubectl("delete", "namespace", namespace, "--wait=false")
