"""Identities, bindings and pods of one test, for the end-to-end tests."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from tests.realnode import client, manifests
from tests.realnode.bed import Bed
from tests.realnode.processes import wait_for

SLEEP: Final = ["sleep", "3600"]
SECONDS: Final = 60
_numbers = itertools.count()


class Applications:
    """Identities, bindings and pods of one test in its own *namespace*, deleted at the end."""

    def __init__(self, bed: Bed, namespace: str) -> None:
        self.bed = bed
        self.namespace = namespace
        self.machine = bed.azure.machine(bed.nodes[0].vm)

    def create_identity(self, name: str, client_id: str = "") -> ManagedIdentity:
        """Create an identity on Azure, by default with a random client id."""
        return self.bed.azure.call(
            lambda emulator: emulator.directory.add_identity(identity_id(name), client_id=client_id)
        )

    def bind(self, name: str, *, resource_id: str = "", client_id: str = "") -> ManagedIdentity:
        """Create an identity, its AzureIdentity and the binding with the selector *name*.

        *resource_id* and *client_id* replace those in the AzureIdentity.
        """
        identity = self.create_identity(name)
        self.bed.apply(
            manifests.identity(
                name,
                resource_id or identity.resource_id,
                client_id or identity.client_id,
                namespace=self.namespace,
            ),
            manifests.binding(name, namespace=self.namespace),
        )
        return identity

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

    def eventually(self, pod: str, identity: str, *, client_id: str = "") -> client.Response:
        """Return the pod's first response with a token of *identity*, requested by *client_id* if it is not empty."""
        return client.eventually(
            self.bed, pod, identity, namespace=self.namespace, seconds=SECONDS, client_id=client_id
        )

    def attached(self) -> frozenset[str]:
        """The names of the identities on the node's VM."""
        identities = self.bed.azure.call(lambda _: self.machine.identities)
        return frozenset(each.rpartition("/")[2] for each in identities)

    def wait_for_attached(self, *names: str) -> None:
        wait_for(lambda: self.attached() >= set(names), SECONDS, f"{names} not attached: {self.attached()}")

    def wait_for_detached(self, *names: str) -> None:
        wait_for(lambda: self.attached().isdisjoint(names), SECONDS, f"{names} not detached: {self.attached()}")

    def assigned(self) -> list[str]:
        """The states of the AzureAssignedIdentities of this namespace's pods."""
        found = self.bed.objects("azureassignedidentities", "--all-namespaces")
        return [each["status"]["status"] for each in found if each["spec"]["podNamespace"] == self.namespace]

    def detach_by_hand(self, name: str) -> None:
        """Detach an identity as a client other than MIC."""

        def detach() -> None:
            self.machine.user_assigned.pop(identity_id(name).lower())
            self.machine.version += 1

        self.bed.azure.call(lambda _: detach())


@contextmanager
def applications(bed: Bed) -> Iterator[Applications]:
    """Create a namespace for one test, and delete it with all objects at the end."""
    namespace = f"e2e-{next(_numbers)}"
    bed.kubectl("create", "namespace", namespace)
    wait_for(
        lambda: bed.commands.kubectl_unchecked("get", "serviceaccount", "default", f"--namespace={namespace}"),
        SECONDS,
        "no service account",
    )
    try:
        yield Applications(bed, namespace)
    finally:
        # Without its pods no test depends on the namespace, whose deletion takes ten seconds.
        bed.kubectl("delete", "pods", "--all", f"--namespace={namespace}", f"--timeout={SECONDS}s")
        bed.kubectl("delete", "namespace", namespace, "--wait=false")
