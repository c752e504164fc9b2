"""The canary pod: its manifest, and the objects that `podidctl verify` reads (nodes and canaries). Pure.

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
from podidentity.resources import Kind, Wire

CONTAINER: Final = "canary"
COMPONENT: Final = "verify"
CANARY_LABELS: Final = {"app.kubernetes.io/managed-by": "podidctl", LABELS[0]: COMPONENT}
CANARY_SELECTOR: Final = ",".join(f"{name}={value}" for name, value in CANARY_LABELS.items())
PodDocument = dict[str, Any]
"""A pod as the API server returns it."""
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
    *, name: str, namespace: str, node: str, image: str, request_id: str, template: PodDocument, deadline_seconds: int
) -> PodDocument:
    """Return the manifest of the canary *name* on *node*. *template*: a pod of NMI."""
    spec = template["spec"]
    # Of several containers of one image, the first.
    pull_policies = {container["image"]: container.get("imagePullPolicy") for container in reversed(spec["containers"])}
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": dict(CANARY_LABELS)}
    if template["metadata"]["namespace"] == namespace:  # an owner is always in the same namespace
        metadata["ownerReferences"] = [
            {field: owner[field] for field in ("apiVersion", "kind", "name", "uid")}
            for owner in template["metadata"].get("ownerReferences", ())
            if owner["kind"] == "DaemonSet" and owner.get("controller")
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
            "tolerations": spec.get("tolerations", []),
            "imagePullSecrets": spec.get("imagePullSecrets", []),
            "containers": [
                {
                    "name": CONTAINER,
                    "image": image,
                    "imagePullPolicy": pull_policies.get(image) or "IfNotPresent",
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
