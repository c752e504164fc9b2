"""Objects that `podidctl verify` reads: nodes, the template of NMI's pods, and the canary pods. Pure."""

from typing import Any, Final

import msgspec

from podidctl.facts.kinds import LABELS, DaemonCondition, PlacedNode, WaitingState
from podidentity.resources import BareMeta, Kind, Resource, Wire

COMPONENT: Final = "verify"
CANARY_LABELS: Final = {"app.kubernetes.io/managed-by": "podidctl", LABELS[0]: COMPONENT}
CANARY_SELECTOR: Final = ",".join(f"{name}={value}" for name, value in CANARY_LABELS.items())


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
        for each in self.status.conditions:
            if each.type == "Ready":
                return "" if each.status == "True" else f"{each.reason}: {each.message}".strip(": ") or "no reason"
        return "its kubelet has not reported its state"


class Owner(Wire, frozen=True):
    """Reference to the owner of an object, with its uid."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class TemplateMeta(Wire, frozen=True):
    namespace: str = ""
    owner_references: list[Owner] | None = None


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
    def owner(self) -> Owner | None:
        """The DaemonSet."""
        owners = self.metadata.owner_references or ()
        return next((each for each in owners if each.kind == "DaemonSet" and each.controller), None)


class TerminatedState(Wire, frozen=True):
    exit_code: int = 0
    reason: str | None = None
    message: str | None = None


class CanaryState(Wire, frozen=True):
    waiting: WaitingState | None = None
    terminated: TerminatedState | None = None


class CanaryContainer(Wire, frozen=True):
    name: str = ""
    state: CanaryState = CanaryState()


class CanaryStatus(Wire, frozen=True):
    phase: str = ""
    reason: str | None = None
    message: str | None = None
    conditions: list[DaemonCondition] = msgspec.field(default_factory=list)
    container_statuses: list[CanaryContainer] = msgspec.field(default_factory=list)


class CanarySpec(Wire, frozen=True):
    node_name: str = ""
    active_deadline_seconds: int = 0


class CanaryMeta(BareMeta, frozen=True):
    creation_timestamp: str | None = None


class Canary(Resource, frozen=True):
    """A canary pod."""

    metadata: CanaryMeta = CanaryMeta()
    spec: CanarySpec = CanarySpec()
    status: CanaryStatus = CanaryStatus()

    @property
    def state(self) -> CanaryState:
        """State of the canary's container; a service mesh may have added others."""
        found = (each.state for each in self.status.container_statuses if each.name == CONTAINER)
        return next(found, CanaryState())


CONTAINER: Final = "canary"
CLUSTER_NODES: Final = Kind("Node", "nodes", ClusterNode, namespaced=False)
CANARIES: Final = Kind("Pod", "pods", Canary)
