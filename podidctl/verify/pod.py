"""The canary pod: its manifest, and the objects that `podidctl verify` reads (nodes, NMI's template, canaries). Pure.

The pod has NMI's image and tolerations, runs under the restricted Pod Security level, and has neither a service account
token nor a label that a binding selects. It names its node itself, so a cordoned node runs it too. Its end is certain:
the program stops after some seconds, the kubelet stops it at `activeDeadlineSeconds`, and the next `verify` deletes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from podidctl.facts.kinds import LABELS, ContainerState, Daemon, DatedMeta, PlacedNode
from podidctl.verify import canary
from podidentity.resources import Kind, OwnerReference, Wire

CONTAINER: Final = "canary"
COMPONENT: Final = "verify"
CANARY_LABELS: Final = {"app.kubernetes.io/managed-by": "podidctl", LABELS[0]: COMPONENT}
CANARY_SELECTOR: Final = ",".join(f"{name}={value}" for name, value in CANARY_LABELS.items())
METADATA_HOST: Final = "169.254.169.254"
METADATA_PORT: Final = 80
USER: Final = 65532
RESOURCES: Final[Mapping[str, Mapping[str, str]]] = {
    "limits": {"cpu": "200m", "memory": "64Mi"},
    "requests": {"cpu": "10m", "memory": "32Mi"},
}


class NodeCondition(Wire, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class NodeStatus(Wire, frozen=True):
    conditions: list[NodeCondition] = msgspec.field(default_factory=list)


class ClusterNode(PlacedNode, frozen=True):
    """A node as `verify` needs it."""

    status: NodeStatus = NodeStatus()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def not_ready_reason(self) -> str:
        """Return why the node is not Ready; empty if it is."""
        for condition in self.status.conditions:
            if condition.type == "Ready":
                return (
                    ""
                    if condition.status == "True"
                    else f"{condition.reason}: {condition.message}".strip(": ") or "no reason"
                )
        return "its kubelet has not reported its state"


class TemplateMeta(Wire, frozen=True):
    namespace: str = ""
    owner_references: list[OwnerReference] | None = None


class TemplateContainer(Wire, frozen=True):
    name: str = ""
    image: str = ""
    image_pull_policy: str = ""


class TemplateSpec(Wire, frozen=True):
    containers: list[TemplateContainer] = msgspec.field(default_factory=list)
    tolerations: list[dict[str, Any]] = msgspec.field(default_factory=list)
    image_pull_secrets: list[dict[str, Any]] = msgspec.field(default_factory=list)


class NmiTemplate(Wire, frozen=True):
    """The parts of an NMI pod that its canary pods have too."""

    metadata: TemplateMeta = TemplateMeta()
    spec: TemplateSpec = TemplateSpec()

    @property
    def owner(self) -> OwnerReference | None:
        """The DaemonSet."""
        owners = self.metadata.owner_references or ()
        return next((owner for owner in owners if owner.kind == "DaemonSet" and owner.controller), None)


class Canary(Daemon, frozen=True):
    """A canary pod."""

    metadata: DatedMeta = DatedMeta()

    @property
    def state(self) -> ContainerState:
        """State of the canary's container; a service mesh may have added others."""
        states = (status.state for status in self.status.container_statuses if status.name == CONTAINER)
        return next(states, ContainerState())


CLUSTER_NODES: Final = Kind("Node", "nodes", ClusterNode, namespaced=False)
CANARIES: Final = Kind("Pod", "pods", Canary)


def program() -> str:
    """Return the text of the canary's program."""
    return Path(canary.__file__).read_text(encoding="utf-8")


def manifest(
    *, name: str, namespace: str, node: str, image: str, request_id: str, template: NmiTemplate, deadline_seconds: int
) -> dict[str, Any]:
    """Return the manifest of the canary *name* on *node*. *template* is a pod of NMI."""
    container = next((container for container in template.spec.containers if container.image == image), None)
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": dict(CANARY_LABELS)}
    owner = template.owner
    if owner is not None and template.metadata.namespace == namespace:  # an owner is always in the same namespace
        metadata["ownerReferences"] = [
            {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
        ]
    return {
        "metadata": metadata,
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": deadline_seconds,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "dnsPolicy": "Default",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": template.spec.tolerations,
            "imagePullSecrets": template.spec.image_pull_secrets,
            "containers": [
                {
                    "name": CONTAINER,
                    "image": image,
                    "imagePullPolicy": (container.image_pull_policy if container is not None else "") or "IfNotPresent",
                    "command": ["python3", "-I", "-c", program()],
                    "args": [METADATA_HOST, str(METADATA_PORT), request_id],
                    "terminationMessagePath": str(canary.RESULT),
                    "resources": RESOURCES,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
