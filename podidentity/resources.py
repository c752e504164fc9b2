"""Custom resources and projections of Pod and Node: the fields that the daemons read, and their encoding. Pure.

Each kind is a msgspec Struct with only the used fields; decoding skips all others. Fields have Python names here and
the API's names in JSON (`rename`). `old_field_names` describes objects from before v1.6.0 with other names.
"""

from collections.abc import Sequence
from enum import IntEnum
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar

import msgspec

GROUP: Final = "aadpodidentity.k8s.io"
BINDING_LABEL: Final = "aadpodidbinding"
BEHAVIOR_ANNOTATION: Final = "aadpodidentity.k8s.io/Behavior"
POD_UID_ANNOTATION: Final = "aadpodidentity.k8s.io/pod-uid"
ATTACHED_BY_ANNOTATION: Final = "aadpodidentity.k8s.io/attached-by"
MESSAGE_ANNOTATION: Final = "aadpodidentity.k8s.io/message"
OBJECT_ID_ANNOTATION: Final = "objectID"
EXCHANGE_ANNOTATION: Final = "aadpodidentity.k8s.io/federated-exchange"
"""Annotation of an AzureIdentity of type 3: `direct` or `identityBindings` (podidentity.azure.federation)."""
FINALIZER: Final = "azureassignedidentity.finalizers.aadpodidentity.k8s.io"
NODENAME_LABEL: Final = "nodename"
MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""Annotation of the API server's copy of a static pod. NodeRestriction lets a kubelet create pods only with it, and the
API server never lets a client add or remove it later (kubernetes pkg/apis/core/validation,
ValidatePodSpecificAnnotationUpdates).
"""
LABEL_VALUE_MAX: Final = 63

CREATED: Final = "Created"
ASSIGNED: Final = "Assigned"
UNASSIGNED: Final = "Unassigned"

SANDBOX_CONDITIONS: Final = ("PodReadyToStartContainers", "PodHasNetwork")
"""The newer name first: a kubelet that knows it does not update a condition of the older name."""


class IdentityType(IntEnum):
    """Type of an AzureIdentity. `type` may be any other number, which is not served."""

    USER_ASSIGNED = 0
    """A managed identity on the pod's VM or scale set."""
    SECRET = 1
    """A service principal with a secret."""
    CERTIFICATE = 2
    """A service principal with a certificate."""
    FEDERATED = 3
    """A managed identity or an application that trusts the pod's service account."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", gc=False):
    """Base class of all types that the API server sends or receives.

    The garbage collector does not track instances: they are never part of a cycle, because they refer only to values
    that were decoded before them. This saves 16 bytes of memory per instance and most of the collector's time.
    """


class OwnerReference(Wire, frozen=True):
    """Reference to the owner of an object."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class BareMeta(Wire, frozen=True):
    """Metadata of any object. Maps and lists may be shared: never change them.

    For pods and nodes this is all: anyone with permission to create a pod can set 256 KiB of annotations, which a
    daemon with hundreds of pods must not store.
    """

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None

    def label(self, key: str) -> str:
        """Return the label's value, or an empty string."""
        return (self.labels or {}).get(key, "")


class PodMarks(Wire, frozen=True):
    """Presence of the pod annotations that matter; all others, up to 256 KiB, are skipped."""

    mirror: str | None = msgspec.field(name=MIRROR_ANNOTATION, default=None)
    """An empty string if the annotation is present, whatever its value; else None."""

    def __post_init__(self) -> None:
        # The value is the kubelet's text of any length; only its presence is kept.
        if self.mirror:
            msgspec.structs.force_setattr(self, "mirror", "")


class PodMeta(BareMeta, frozen=True):
    """Metadata of a pod."""

    marks: PodMarks | None = msgspec.field(name="annotations", default=None)


class Meta(BareMeta, frozen=True):
    """Metadata of a custom resource."""

    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None

    def annotation(self, key: str) -> str:
        """Return the annotation's value, or an empty string."""
        return (self.annotations or {}).get(key, "")


class StoredObject(msgspec.Struct):
    """The parts of an object as stored that its readers use without further checks."""

    metadata: Meta
    spec: dict[str, Any] | None = None


class Resource(Wire, frozen=True):
    """Any object with metadata, as an informer needs it."""

    metadata: BareMeta = BareMeta()

    @property
    def key(self) -> tuple[str, str]:
        """Namespace (empty for cluster-scoped kinds) and name."""
        return self.metadata.namespace, self.metadata.name


class PodIP(Wire, frozen=True):
    ip: str = ""


class Running(Wire, frozen=True):
    started_at: str | None = None
    """RFC 3339 with whole seconds, by the clock of the pod's node. The API server sends null for an unknown time."""


class Terminated(Wire, frozen=True):
    """Present in the state of a container that has ended."""

    started_at: str | None = None
    """As in `Running`; None if the container ended without a start."""


class ContainerState(Wire, frozen=True):
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Wire, frozen=True):
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    """Previous state of a container that was restarted or will be."""


class PodCondition(Wire, frozen=True):
    type: str = ""
    status: str = ""


class PodSpec(Wire, frozen=True):
    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False


class PodPhase(Wire, frozen=True):
    """The part of a pod's status that MIC reads."""

    phase: str = ""


class PodStatus(PodPhase, frozen=True):
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[PodIP] = msgspec.field(name="podIPs", default_factory=list)
    container_statuses: list[ContainerStatus] = []
    init_container_statuses: list[ContainerStatus] = []
    ephemeral_container_statuses: list[ContainerStatus] = []
    conditions: Sequence[PodCondition] = []

    @property
    def all_containers(self) -> tuple[ContainerStatus, ...]:
        """Containers of every kind that the kubelet has reported."""
        return (*self.container_statuses, *self.init_container_statuses, *self.ephemeral_container_statuses)


class ScheduledPod(Resource, frozen=True):
    """A pod as MIC reads it: its name, label, node, owners and phase. Decoding skips the rest of the status, which is
    most of a pod's memory."""

    metadata: PodMeta = PodMeta()
    spec: PodSpec = PodSpec()
    status: PodPhase = PodPhase()

    @property
    def finished(self) -> bool:
        """Whether the pod has ended, so that its address may belong to another pod."""
        return self.status.phase in {"Succeeded", "Failed"}

    @property
    def mirror(self) -> bool:
        """Whether this is a mirror pod: a kubelet creates those of its node, in any namespace with any labels."""
        if self.metadata.marks is not None and self.metadata.marks.mirror is not None:
            return True
        owners = self.metadata.owner_references
        if not owners:
            return False
        return any(owner.kind == "Node" and owner.api_version == "v1" for owner in owners)

    @property
    def binding_label(self) -> str:
        """The value that a binding's selector must equal, or an empty string."""
        labels = self.metadata.labels
        return labels.get(BINDING_LABEL, "") if labels else ""


class Pod(ScheduledPod, frozen=True):
    status: PodStatus = PodStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address of the pod, as the API server spells it; the primary one first."""
        several = tuple(entry.ip for entry in self.status.pod_ips if entry.ip)
        return several or ((self.status.pod_ip,) if self.status.pod_ip else ())

    @property
    def terminated(self) -> bool:
        """Whether no container can run any more: each one with a status has terminated.

        Ordinary init containers, native sidecars (init containers with restartPolicy Always) and ephemeral containers
        count like regular ones. A pod without the status of a regular container is about to start and not terminated.
        """
        status = self.status
        ended = all(container.state.terminated is not None for container in status.all_containers)
        return ended and bool(status.container_statuses)

    @property
    def sandbox_down(self) -> bool:
        """Whether the kubelet reports that the pod has no sandbox with a network, before its start or after its end.

        Also False if the kubelet reports neither condition: PodReadyToStartContainers exists by default since
        Kubernetes 1.29, and PodHasNetwork is its name before 1.28.
        """
        reported = {
            condition.type: condition.status
            for condition in self.status.conditions
            if condition.type in SANDBOX_CONDITIONS
        }
        return next((reported[type_] for type_ in SANDBOX_CONDITIONS if type_ in reported), "") == "False"

    @property
    def ending(self) -> bool:
        """Whether the pod is being deleted or each of its containers has terminated."""
        return self.metadata.deletion_timestamp is not None or self.terminated


class NodeSpec(Wire, frozen=True):
    provider_id: str = msgspec.field(name="providerID", default="")


class Node(Resource, frozen=True):
    spec: NodeSpec = NodeSpec()


class SecretReference(Wire, frozen=True):
    name: str = ""
    namespace: str = ""


class Spec(Wire, frozen=True):
    """Spec of a custom resource. Every spec may also have `metadata` and `replicas`, which are ignored."""


class AzureIdentitySpec(Spec, frozen=True):
    type: int = 0
    resource_id: str = msgspec.field(name="resourceID", default="")
    client_id: str = msgspec.field(name="clientID", default="")
    client_password: SecretReference | None = None
    tenant_id: str = msgspec.field(name="tenantID", default="")
    auxiliary_tenant_ids: list[str] | None = msgspec.field(name="auxiliaryTenantIDs", default=None)
    ad_resource_id: str = msgspec.field(name="adResourceID", default="")
    ad_endpoint: str = ""


class Custom(Resource, frozen=True):
    """An object of a custom resource kind."""

    metadata: Meta = Meta()


class AzureIdentity(Custom, frozen=True, gc=True, weakref=True):
    # MIC finds an equal embedded copy by a weak reference, which msgspec permits only with gc=True.
    spec: AzureIdentitySpec = AzureIdentitySpec()

    @property
    def namespaced(self) -> bool:
        """Whether this identity serves only its own namespace: by its annotation, and always if it is federated."""
        annotated = self.metadata.annotation(BEHAVIOR_ANNOTATION).lower() == "namespaced"
        return annotated or self.spec.type == IdentityType.FEDERATED


class AzureIdentityBindingSpec(Spec, frozen=True):
    azure_identity: str = ""
    selector: str = ""
    weight: int = 0


class AzureIdentityBinding(Custom, frozen=True, gc=True, weakref=True):
    # As for AzureIdentity.
    spec: AzureIdentityBindingSpec = AzureIdentityBindingSpec()


class AzureAssignedIdentitySpec(Spec, frozen=True):
    azure_identity_ref: AzureIdentity = AzureIdentity()
    azure_binding_ref: AzureIdentityBinding = AzureIdentityBinding()
    pod: str = ""
    pod_namespace: str = ""
    nodename: str = ""


class AzureAssignedIdentityStatus(Wire, frozen=True):
    status: str = ""
    available_replicas: int = 0


class AzureAssignedIdentity(Custom, frozen=True):
    spec: AzureAssignedIdentitySpec = AzureAssignedIdentitySpec()
    status: AzureAssignedIdentityStatus = AzureAssignedIdentityStatus()


class AzurePodIdentityExceptionSpec(Spec, frozen=True):
    pod_labels: dict[str, str] | None = None


class AzurePodIdentityException(Custom, frozen=True):
    spec: AzurePodIdentityExceptionSpec = AzurePodIdentityExceptionSpec()


R_co = TypeVar("R_co", bound=Resource, covariant=True)


class Kind(msgspec.Struct, Generic[R_co], frozen=True):
    """Names of one kind in the API, and the Struct of its objects."""

    name: str
    plural: str
    shape: type[R_co]
    group: str = ""
    version: str = "v1"
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of the collection or of one object; without a namespace, of the collection of all
        namespaces.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(part for part in (root + scope, self.plural, name, subresource) if part)


PODS: Final = Kind("Pod", "pods", Pod)
SCHEDULED_PODS: Final = Kind("Pod", "pods", ScheduledPod)
"""The same objects as `PODS`, with the fields that MIC reads."""
NODES: Final = Kind("Node", "nodes", Node, namespaced=False)
IDENTITIES: Final = Kind("AzureIdentity", "azureidentities", AzureIdentity, GROUP)
BINDINGS: Final = Kind("AzureIdentityBinding", "azureidentitybindings", AzureIdentityBinding, GROUP)
ASSIGNED_IDENTITIES: Final = Kind("AzureAssignedIdentity", "azureassignedidentities", AzureAssignedIdentity, GROUP)
EXCEPTIONS: Final = Kind("AzurePodIdentityException", "azurepodidentityexceptions", AzurePodIdentityException, GROUP)


def nodename_label(node: str) -> str:
    """Return the label value that names an assigned identity's node: label values have at most 63 characters.

    NMI selects by it and MIC writes it, so both must call this function. A longer name keeps its readable beginning and
    ends in ten hex digits of its SHA-256.
    """
    if len(node) <= LABEL_VALUE_MAX:
        return node
    digest = sha256(node.encode()).hexdigest()[:10]
    return f"{node[: LABEL_VALUE_MAX - 11].rstrip('-._')}-{digest}"
