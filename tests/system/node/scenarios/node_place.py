"""A real node with the chart as a place of `tests/support/podidctl/faults`, with the removal of each fault."""

import itertools
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final, TypeVar

import yaml

from podidentity.version import VERSION
from podidentity_sandbox import fault_control
from podidentity_sandbox.azure import AzureEmulator, identity_id
from podidentity_sandbox.fault_control import FaultControl, Service
from tests.support.identity_requests import AUDIENCE
from tests.support.mic.preview.run_programs import CommandResult
from tests.support.podidctl.faults.places import NO_CONNECTION, POD, PodRequest
from tests.system.node import client, manifests
from tests.system.node.bed import MIC, MIC_LABELS, NAMESPACE, NMI, Bed
from tests.system.node.manifests import REPOSITORY
from tests.system.node.processes import wait_for

T = TypeVar("T")

SECONDS: Final = 60
ABSENT: Final = f"{REPOSITORY}/absent:{VERSION}"
"""An image that no node has, of the version of the others."""
_numbers = itertools.count()


class NodePlace:
    """A test bed with one node for one fault at a time. `undo` removes the fault and all its objects."""

    def __init__(self, bed: Bed) -> None:
        self.identity = f"web-{next(_numbers)}"
        self._bed = bed
        self._documents: list[Mapping[str, Any]] = []
        self._undo = ExitStack()

    def undo(self) -> None:
        """Undo all changes, and wait until MIC has revoked the assignment. Raise CommandError or BedError."""
        self._undo.close()
        if self._documents:
            latest_first = yaml.safe_dump_all(self._documents[::-1])
            self._bed.kubectl("delete", "--filename=-", "--ignore-not-found", stdin=latest_first)
        wait_for(lambda: not self._assigned(), SECONDS, "the assignment remains")
        resource_id = identity_id(self.identity)
        self._bed.azure.call(lambda azure: azure.directory.remove_identity(resource_id))
        self._bed.azure.call(lambda azure: azure.arm.marked.unauthorized.discard(resource_id.lower()))

    async def on_azure(self, act: Callable[[AzureEmulator], T]) -> T:
        return self._bed.azure.call(act)

    async def apply(self, document: Mapping[str, Any]) -> None:
        self._bed.apply(document)
        self._documents.append(document)

    async def run_pod(self, labels: Mapping[str, str], **metadata: Any) -> None:
        pod = manifests.pod(POD)
        pod["metadata"] |= metadata
        pod["metadata"]["labels"] |= labels
        await self.apply(pod)
        self._bed.wait_for_pods(POD)

    async def until_assigned(self) -> None:
        wait_for(lambda: self._assigned() == ["Assigned"], SECONDS, "no identity is assigned")

    async def set_fault(self, service: str, value: str) -> None:
        azure = self._bed.azure.emulator
        control = FaultControl(
            {
                "imds": Service(azure.imds, fault_control.imds_error),
                "arm": Service(azure.arm, fault_control.azure_error),
                "aad": Service(azure.aad, fault_control.aad_error),
            }
        )
        if service == "arm":
            # MIC would wait for up to two minutes before its next call to Azure.
            self._undo.callback(self._restart_mic)
        self._undo.callback(lambda: self._bed.azure.call(lambda _: control.clear()))
        self._bed.azure.call(lambda _: control.set({service: value}))

    async def trust(self, client_id: str, *, account: str, audience: str) -> None:
        self._bed.azure.federate(client_id, "default", account=account, audience=audience)

    async def stop_mic(self) -> None:
        """Let MIC's image be absent. A Deployment without replicas would have no pod that shows the fault."""
        image, replicas = self._container_image(MIC), self._read(MIC, "{.spec.replicas}")

        def restart(image: str, replicas: str) -> None:
            self._kubectl("scale", MIC, "--replicas=0")
            self._kubectl("wait", "--for=delete", "pods", f"--selector={MIC_LABELS}", f"--timeout={SECONDS}s")
            self._kubectl("set", "image", MIC, f"mic={image}")
            self._kubectl("scale", MIC, f"--replicas={replicas}")

        self._undo.callback(self._kubectl, "rollout", "status", MIC, f"--timeout={SECONDS}s")
        self._undo.callback(restart, image, replicas)
        restart(ABSENT, "1")

    async def stop_nmi(self) -> None:
        """Let NMI's image be absent and delete its pod, so that its successor cannot start."""
        image, pod = self._container_image(NMI), self._bed.nmi_pod()
        self._undo.callback(self._bed.wait_for_nmi)
        self._undo.callback(self._kubectl, "set", "image", NMI, f"nmi={image}")
        self._kubectl("set", "image", NMI, f"nmi={ABSENT}")
        # The DaemonSet deletes the former pod only when the successor is Ready.
        wait_for(lambda: len(self._bed.nmi_pods()) > 1, SECONDS, "NMI has no successor")
        self._kubectl("delete", "pod", pod, f"--timeout={SECONDS}s")

    async def respond(self, request: PodRequest) -> str:
        path = client.token_path(**{"resource": AUDIENCE, **request.query})
        response = client.request(self._bed, POD, path, headers={**client.METADATA, **request.headers})
        if response.status == 0:
            return NO_CONNECTION
        if response.status == 200:
            of_node = response.token_of == self._bed.nodes[0].name
            return f"200 a token of {'the node' if of_node else response.token_of}'s identity"
        return f"{response.status} {response.document['error_description']}"

    async def podidctl(self, *words: str) -> CommandResult:
        done = self._bed.commands.done(sys.executable, "-m", "podidctl", *words, "-o", "json")
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def _restart_mic(self) -> None:
        self._kubectl("delete", "pods", f"--selector={MIC_LABELS}", f"--timeout={SECONDS}s")
        self._kubectl("rollout", "status", MIC, f"--timeout={SECONDS}s")

    def _container_image(self, workload: str) -> str:
        return self._read(workload, "{.spec.template.spec.containers[0].image}")

    def _read(self, workload: str, path: str) -> str:
        return self._kubectl("get", workload, f"--output=jsonpath={path}")

    def _assigned(self) -> list[str]:
        """Return the states of the AzureAssignedIdentities of the pod."""
        return [
            assignment["status"]["status"] for assignment in self._bed.assignments() if assignment["spec"]["pod"] == POD
        ]

    def _kubectl(self, *arguments: str) -> str:
        return self._bed.kubectl(*arguments, f"--namespace={NAMESPACE}")
