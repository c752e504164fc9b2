"""Projections of the Kubernetes objects that the commands read, with the fields that only podidctl uses.

The daemons share other projections (`podidentity.resources`), which omit these fields.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from typing_extensions import override

from nmi.node.host_routing import HostRouting, by_labels
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    IDENTITIES,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    Kind,
    Meta,
    Node,
    NodeSpec,
    Pod,
    PodCondition,
    PodMeta,
    PodSpec,
    PodStatus,
    Resource,
    Wire,
)

SCHEDULED: Final = "PodScheduled"
LABELS: Final = ("app.kubernetes.io/component", "component")
OS_LABEL: Final = "kubernetes.io/os"
VIRTUAL_LABEL: Final = ("type", "virtual-kubelet")
"""Label of a node that is not a machine, where DaemonSet pods cannot run."""
VIRTUAL_TAINT: Final = "virtual-kubelet.io/provider"
COMPONENT_PREFIX: Final = "aad-pod-identity"
"""Prefix of the component names in the Events of both this project and the Go implementation."""
CILIUM_NODES: Final = Kind("CiliumNode", "ciliumnodes", Resource, "cilium.io", "v2", namespaced=False)


class Variable(Wire, frozen=True):
    name: str = ""


class VariableSource(Wire, frozen=True):
    """A ConfigMap or a Secret whose keys are variables."""

    prefix: str = ""


class VariableContainer(Wire, frozen=True):
    """A container with the names of its environment variables."""

    env: list[Variable] | None = None
    env_from: list[VariableSource] | None = None


class VariablePodSpec(PodSpec, frozen=True):
    containers: Sequence[VariableContainer] | None = None
    init_containers: Sequence[VariableContainer] | None = None


class VariablePod(Pod, frozen=True):
    """A pod with the names of its environment variables."""

    spec: VariablePodSpec = VariablePodSpec()


class DatedMeta(PodMeta, frozen=True):
    creation_timestamp: str | None = None


class DatedCondition(PodCondition, frozen=True):
    last_transition_time: str | None = None


class DatedStatus(PodStatus, frozen=True):
    conditions: Sequence[DatedCondition] = msgspec.field(default_factory=list)


class DatedPod(VariablePod, frozen=True):
    """A pod with the times that show since when it is on its node, and the names of its environment variables."""

    metadata: DatedMeta = DatedMeta()
    status: DatedStatus = DatedStatus()

    @property
    def since(self) -> datetime | None:
        """Time of creation or scheduling, whichever is later: MIC does not act before a pod is scheduled."""
        scheduled = (
            condition.last_transition_time for condition in self.status.conditions if condition.type == SCHEDULED
        )
        times = map(parse_time, (self.metadata.creation_timestamp, *scheduled))
        return max((time for time in times if time is not None), default=None)


DATED_PODS: Final = Kind("Pod", "pods", DatedPod)


class DatedObjectMeta(Meta, frozen=True):
    creation_timestamp: str | None = None


class DatedBinding(AzureIdentityBinding, frozen=True):
    """A binding with its creation time."""

    metadata: DatedObjectMeta = DatedObjectMeta()


class DatedIdentity(AzureIdentity, frozen=True):
    """An identity with its creation time."""

    metadata: DatedObjectMeta = DatedObjectMeta()


class DatedAssignedIdentity(AzureAssignedIdentity, frozen=True):
    """An assigned identity with its creation time."""

    metadata: DatedObjectMeta = DatedObjectMeta()


DATED_BINDINGS: Final = msgspec.structs.replace(BINDINGS, shape=DatedBinding)
DATED_IDENTITIES: Final = msgspec.structs.replace(IDENTITIES, shape=DatedIdentity)
DATED_ASSIGNED_IDENTITIES: Final = msgspec.structs.replace(ASSIGNED_IDENTITIES, shape=DatedAssignedIdentity)


def parse_time(spelled: str | None) -> datetime | None:
    """Return the time that the API server wrote, or None for other text."""
    try:
        time = datetime.fromisoformat(spelled or "")
    except ValueError:
        return None
    # A time without a zone cannot be compared with others.
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


class FieldRef(Wire, frozen=True):
    field_path: str = ""


class ValueFrom(Wire, frozen=True):
    field_ref: FieldRef = FieldRef()


class EnvironmentVariable(Wire, frozen=True):
    name: str = ""
    value: str = ""
    value_from: ValueFrom | None = None


class DaemonContainer(Wire, frozen=True):
    name: str = ""
    image: str = ""
    command: list[str] = msgspec.field(default_factory=list)
    args: list[str] = msgspec.field(default_factory=list)
    env: list[EnvironmentVariable] = msgspec.field(default_factory=list)


class HostPath(Wire, frozen=True):
    path: str = ""


class DaemonVolume(Wire, frozen=True):
    host_path: HostPath | None = None


class Toleration(Wire, frozen=True):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


class FieldRequirement(Wire, frozen=True):
    key: str = ""
    values: list[str] | None = None


class NodeSelectorTerm(Wire, frozen=True):
    match_fields: list[FieldRequirement] | None = None


class NodeSelector(Wire, frozen=True):
    node_selector_terms: list[NodeSelectorTerm] | None = None


class NodeAffinity(Wire, frozen=True):
    required: NodeSelector | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)


class Affinity(Wire, frozen=True):
    node_affinity: NodeAffinity | None = None


class DaemonSpec(Wire, frozen=True):
    node_name: str = ""
    node_selector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None
    affinity: Affinity | None = None
    host_network: bool = False
    volumes: list[DaemonVolume] = msgspec.field(default_factory=list)
    service_account_name: str = ""
    containers: list[DaemonContainer] = msgspec.field(default_factory=list)
    active_deadline_seconds: int = 0


class DaemonCondition(Wire, frozen=True):
    type: str = ""
    status: str = ""
    message: str | None = None


class WaitingState(Wire, frozen=True):
    reason: str | None = None
    message: str | None = None


class TerminatedState(Wire, frozen=True):
    exit_code: int = 0
    reason: str | None = None
    message: str | None = None


class ContainerState(Wire, frozen=True):
    waiting: WaitingState | None = None
    terminated: TerminatedState | None = None


class ContainerStatus(Wire, frozen=True):
    name: str = ""
    restart_count: int = 0
    state: ContainerState = ContainerState()


class DaemonStatus(Wire, frozen=True):
    phase: str = ""
    reason: str | None = None
    message: str | None = None
    conditions: list[DaemonCondition] = msgspec.field(default_factory=list)
    container_statuses: list[ContainerStatus] = msgspec.field(default_factory=list)


class Daemon(Resource, frozen=True):
    """A pod of NMI or MIC."""

    metadata: PodMeta = PodMeta()
    spec: DaemonSpec = DaemonSpec()
    status: DaemonStatus = DaemonStatus()

    @property
    def name(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def ready(self) -> bool:
        return self.metadata.deletion_timestamp is None and any(
            condition.type == "Ready" and condition.status == "True" for condition in self.status.conditions
        )

    @property
    def runs(self) -> bool:
        """Whether its containers run, as far as its status shows it."""
        states = [status.state for status in self.status.container_statuses]
        is_running = self.status.phase == "Running" and self.metadata.deletion_timestamp is None
        return is_running and all(state.waiting is None and state.terminated is None for state in states)

    @property
    def is_part_of_node(self) -> bool:
        """Whether the pod is in the node's network, or has files of the node, as NMI has with the backend `cilium`.

        The Pod Security levels `baseline` and `restricted` permit neither to tenants.
        """
        return self.spec.host_network or any(volume.host_path is not None for volume in self.spec.volumes)

    @property
    def looks_like_nmi(self) -> bool:
        """Whether more than the label identifies this pod as NMI: anyone with permission to create a pod can set the
        label.
        """
        return self.is_part_of_node and bool(self.daemon_set)

    @property
    def daemon_set(self) -> str:
        """Name of the DaemonSet that runs the pod; empty if none does."""
        owners = self.metadata.owner_references or ()
        return next((owner.name for owner in owners if owner.kind == "DaemonSet" and owner.controller), "")

    @property
    def intended_node(self) -> str:
        """Name of the node for which the DaemonSet created the pod, also before the pod is scheduled."""
        affinity = self.spec.affinity.node_affinity if self.spec.affinity is not None else None
        terms = affinity.required.node_selector_terms if affinity is not None and affinity.required is not None else ()
        fields = (field for term in terms or () for field in term.match_fields or ())
        return next(
            (selector.values[0] for selector in fields if selector.key == "metadata.name" and selector.values), ""
        )

    @property
    def unscheduled_reason(self) -> str:
        """Return why the pod has no node, as the scheduler reports it."""
        messages = (
            condition.message
            for condition in self.status.conditions
            if condition.type == "PodScheduled" and condition.message
        )
        return next(messages, None) or "the scheduler has not reported a reason"

    @property
    def not_ready_reason(self) -> str:
        """Return why the pod is not ready, as its status reports it."""
        for status in self.status.container_statuses:
            if (waiting := status.state.waiting) is not None and waiting.reason:
                restarts = f", restarted {status.restart_count} times" if status.restart_count else ""
                return f"{status.name}: {waiting.reason}{restarts}"
        return "it is being deleted" if self.metadata.deletion_timestamp else f"phase {self.status.phase or 'unknown'}"

    def container(self, program: str) -> DaemonContainer | None:
        """Return the container of *program*: by its name, else the first one."""
        named = (container for container in self.spec.containers if container.name == program)
        return next(named, self.spec.containers[0] if self.spec.containers else None)


DAEMONS: Final = Kind("Pod", "pods", Daemon)


def service_account_of(daemon: Daemon) -> str:
    """Return the service account of a daemon's pod, as `namespace/name`."""
    return f"{daemon.metadata.namespace}/{daemon.spec.service_account_name or 'default'}"


class Taint(Wire, frozen=True):
    key: str = ""
    value: str = ""
    effect: str = ""

    @override
    def __str__(self) -> str:
        return f"{self.key}{'=' if self.value else ''}{self.value}:{self.effect}"


class PlacedNodeSpec(NodeSpec, frozen=True):
    taints: list[Taint] | None = None
    unschedulable: bool = False


class PlacedNode(Node, frozen=True):
    """A node with the fields by which the scheduler admits NMI's pods."""

    spec: PlacedNodeSpec = PlacedNodeSpec()

    @property
    def is_virtual(self) -> bool:
        """Whether this is no machine, as with Azure Container Instances."""
        name, value = VIRTUAL_LABEL
        return self.metadata.label(name) == value or any(taint.key == VIRTUAL_TAINT for taint in self.spec.taints or ())

    @property
    def has_ebpf_host_routing(self) -> bool:
        """Whether pods' packets bypass netfilter, by AKS's label."""
        return by_labels(self.metadata.labels or {}) is HostRouting.EBPF

    @property
    def can_run_nmi(self) -> bool:
        return self.metadata.label(OS_LABEL) in {"", "linux"} and not self.is_virtual


PLACED_NODES: Final = Kind("Node", "nodes", PlacedNode, namespaced=False)


class EventSource(Wire, frozen=True):
    component: str = ""
    host: str = ""


class InvolvedObject(Wire, frozen=True):
    namespace: str = ""
    name: str = ""
    uid: str = ""


class EventSeries(Wire, frozen=True):
    count: int | None = None
    last_observed_time: str | None = None


class Event(Resource, frozen=True):
    """A Kubernetes Event. NMI and MIC write the older form; the form of events.k8s.io is read too."""

    type: str = ""
    reason: str = ""
    message: str = ""
    count: int | None = None
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    series: EventSeries | None = None
    source: EventSource = EventSource()
    reporting_component: str = ""
    involved_object: InvolvedObject = InvolvedObject()

    @property
    def at(self) -> str:
        """Time of the last repeat; empty if the Event has no time."""
        repeated = self.series.last_observed_time if self.series is not None else None
        return repeated or self.last_timestamp or self.event_time or self.first_timestamp or ""

    @property
    def times(self) -> int:
        """Number of repeats, with the first time."""
        return (self.series.count if self.series is not None else None) or self.count or 1

    @property
    def component(self) -> str:
        return self.source.component or self.reporting_component


EVENTS: Final = Kind("Event", "events", Event)


class Version(Wire, frozen=True):
    name: str = ""
    served: bool = False
    storage: bool = False
    schema: dict[str, Any] | None = None

    @property
    def keeps_unknown(self) -> bool:
        """Whether spec preserves fields that the schema does not name, as old field names need."""
        spec: Any = self.schema or {}
        for name in ("openAPIV3Schema", "properties", "spec"):
            spec = spec.get(name) if isinstance(spec, dict) else None
        whole = (self.schema or {}).get("openAPIV3Schema", {})
        return any(
            isinstance(schema, dict) and schema.get("x-kubernetes-preserve-unknown-fields") is True
            for schema in (spec, whole)
        )


class DefinitionSpec(Wire, frozen=True):
    versions: list[Version] = msgspec.field(default_factory=list)
    preserve_unknown_fields: bool = False
    """Whether unknown fields are kept independent of the schema: the definition was created in version v1beta1."""


class DefinitionStatus(Wire, frozen=True):
    stored_versions: list[str] | None = None


class Definition(Resource, frozen=True):
    """A CustomResourceDefinition."""

    spec: DefinitionSpec = DefinitionSpec()
    status: DefinitionStatus = DefinitionStatus()


DEFINITIONS: Final = Kind(
    "CustomResourceDefinition",
    "customresourcedefinitions",
    Definition,
    "apiextensions.k8s.io",
    namespaced=False,
)
