"""The custom resources and the projections of Pod and Node: what we read of them, and how we write them. Pure.

Each kind is a msgspec Struct that names only what our programs use; decoding a list skips the rest of every object
while reading it. Fields keep Python's names here and the API's on the wire (`rename`). Objects written before v1.6.0
spell their fields `ClientID`, `clientid`, …: `fold` reads every such spelling.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cache
from hashlib import sha256
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_args

import msgspec

GROUP: Final = "aadpodidentity.k8s.io"
BINDING_LABEL: Final = "aadpodidbinding"
BEHAVIOR_ANNOTATION: Final = "aadpodidentity.k8s.io/Behavior"
POD_UID_ANNOTATION: Final = "aadpodidentity.k8s.io/pod-uid"
ATTACHED_BY_ANNOTATION: Final = "aadpodidentity.k8s.io/attached-by"
MESSAGE_ANNOTATION: Final = "aadpodidentity.k8s.io/message"
OBJECT_ID_ANNOTATION: Final = "objectID"
FINALIZER: Final = "azureassignedidentity.finalizers.aadpodidentity.k8s.io"
NODENAME_LABEL: Final = "nodename"
MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""Marks the API server's copy of a static pod. NodeRestriction lets a kubelet create pods with it only, and the API
server lets nobody add or remove it later (kubernetes pkg/apis/core/validation, ValidatePodSpecificAnnotationUpdates).
"""
LABEL_VALUE_MAX: Final = 63

CREATED: Final = "Created"
ASSIGNED: Final = "Assigned"
UNASSIGNED: Final = "Unassigned"

_SANDBOX_CONDITIONS: Final = ("PodReadyToStartContainers", "PodHasNetwork")
"""The newer name first: a kubelet that knows it leaves a condition of the older name as it was."""


class IdentityType(IntEnum):
    """What an AzureIdentity is; its `type` may be any other number too, which nobody serves."""

    USER_ASSIGNED = 0
    """A managed identity on the pod's VM or scale set."""
    SECRET = 1
    """A service principal that proves itself with a secret."""
    CERTIFICATE = 2
    """A service principal that proves itself with a certificate."""
    FEDERATED = 3
    """A managed identity, or an application, that trusts the pod's own service account."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What every shape on the API server's wire has in common."""


class OwnerReference(Wire, frozen=True):
    """An object that this one was made for; as long as that is only read, without its uid."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    controller: bool | None = None


class BareMeta(Wire, frozen=True):
    """What we read of any object's metadata. Maps and lists may be shared: never change them.

    Of pods and nodes it is all: whoever writes a pod may put 256 KiB of annotations on it, which a daemon that mirrors
    hundreds of pods should not have to keep.
    """

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None

    def label(self, key: str) -> str:
        """The label's value, or an empty string."""
        return (self.labels or {}).get(key, "")


class PodMarks(Wire, frozen=True):
    """The presence of those of a pod's annotations that decide; the rest, up to 256 KiB of them, is skipped."""

    mirror: str | None = msgspec.field(name=MIRROR_ANNOTATION, default=None)
    """An empty string if the annotation is there, whatever its value; else None."""

    def __post_init__(self) -> None:
        # The value is the kubelet's text, of any length: only its presence is kept.
        if self.mirror:
            msgspec.structs.force_setattr(self, "mirror", "")


class PodMeta(BareMeta, frozen=True):
    """What we read of a pod's metadata."""

    marks: PodMarks | None = msgspec.field(name="annotations", default=None)


class Meta(BareMeta, frozen=True):
    """What we read of the metadata of a custom resource."""

    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None

    def annotation(self, key: str) -> str:
        """The annotation's value, or an empty string."""
        return (self.annotations or {}).get(key, "")


class Resource(Wire, frozen=True):
    """Any object with metadata: what an informer needs to know of it."""

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
    """As of `Running`; None if the container ended without a start."""


class ContainerState(Wire, frozen=True):
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Wire, frozen=True):
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    """How the container ended before, where it has been restarted or is about to be."""


class PodCondition(Wire, frozen=True):
    type: str = ""
    status: str = ""


class PodSpec(Wire, frozen=True):
    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False


class PodStatus(Wire, frozen=True):
    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[PodIP] = msgspec.field(name="podIPs", default_factory=list)
    container_statuses: list[ContainerStatus] = []
    init_container_statuses: list[ContainerStatus] = []
    ephemeral_container_statuses: list[ContainerStatus] = []
    conditions: Sequence[PodCondition] = []

    @property
    def all_containers(self) -> tuple[ContainerStatus, ...]:
        """Of every kind, as far as the kubelet has reported them."""
        return (*self.container_statuses, *self.init_container_statuses, *self.ephemeral_container_statuses)


class Pod(Resource, frozen=True):
    metadata: PodMeta = PodMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address of the pod, as the API server spells it; the primary one first."""
        several = tuple(entry.ip for entry in self.status.pod_ips if entry.ip)
        return several or ((self.status.pod_ip,) if self.status.pod_ip else ())

    @property
    def finished(self) -> bool:
        """Whether the pod has run to its end and its address may already belong to another."""
        return self.status.phase in {"Succeeded", "Failed"}

    @property
    def terminated(self) -> bool:
        """Whether no container is left that could run: each one that has a status has terminated.

        Ordinary init containers, native sidecars (init containers with restartPolicy Always) and ephemeral containers
        count like regular ones. Without the status of a regular container the pod is about to start, not terminated.
        """
        status = self.status
        ended = all(each.state.terminated is not None for each in status.all_containers)
        return ended and bool(status.container_statuses)

    @property
    def sandbox_down(self) -> bool:
        """Whether the kubelet reports that the pod has no sandbox with a network, before its start or after its end.

        False, too, where the kubelet reports neither condition: PodReadyToStartContainers exists by default since
        Kubernetes 1.29, and PodHasNetwork is its name before 1.28.
        """
        reported = {each.type: each.status for each in self.status.conditions if each.type in _SANDBOX_CONDITIONS}
        return next((reported[each] for each in _SANDBOX_CONDITIONS if each in reported), "") == "False"

    @property
    def ending(self) -> bool:
        """Whether the pod is being deleted or each of its containers has terminated."""
        return self.metadata.deletion_timestamp is not None or self.terminated

    @property
    def mirror(self) -> bool:
        """Whether this is a mirror pod: a kubelet creates those of its own node, in any namespace with any labels."""
        if self.metadata.marks is not None and self.metadata.marks.mirror is not None:
            return True
        owners = self.metadata.owner_references or ()
        return any(owner.kind == "Node" and owner.api_version == "v1" for owner in owners)

    @property
    def binding_label(self) -> str:
        """The value that a binding's selector must equal, or an empty string."""
        return self.metadata.label(BINDING_LABEL)


class NodeSpec(Wire, frozen=True):
    provider_id: str = msgspec.field(name="providerID", default="")


class Node(Resource, frozen=True):
    spec: NodeSpec = NodeSpec()


class SecretReference(Wire, frozen=True):
    name: str = ""
    namespace: str = ""


class Spec(Wire, frozen=True):
    """Of a custom resource. `metadata` and `replicas`, which every one of them may hold besides, nobody reads."""


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
    """An object of a kind of our own."""

    metadata: Meta = Meta()


class AzureIdentity(Custom, frozen=True):
    spec: AzureIdentitySpec = AzureIdentitySpec()

    @property
    def namespaced(self) -> bool:
        """Whether this identity serves its own namespace only, by its annotation or, if federated, in any case."""
        annotated = self.metadata.annotation(BEHAVIOR_ANNOTATION).lower() == "namespaced"
        return annotated or self.spec.type == IdentityType.FEDERATED


class AzureIdentityBindingSpec(Spec, frozen=True):
    azure_identity: str = ""
    selector: str = ""
    weight: int = 0


class AzureIdentityBinding(Custom, frozen=True):
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
    """How one kind is named on the wire, and the Struct that its objects are read into."""

    name: str
    plural: str
    shape: type[R_co]
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    old_spellings: bool = False
    """Objects may hold the field spellings from before v1.6.0: decode by way of `fold`."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection or of one object; without a namespace, of all namespaces' collection."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(part for part in (root + scope, self.plural, name, subresource) if part)


PODS: Final = Kind("Pod", "pods", Pod)
NODES: Final = Kind("Node", "nodes", Node, namespaced=False)
IDENTITIES: Final = Kind("AzureIdentity", "azureidentities", AzureIdentity, GROUP, old_spellings=True)
BINDINGS: Final = Kind("AzureIdentityBinding", "azureidentitybindings", AzureIdentityBinding, GROUP, old_spellings=True)
ASSIGNED_IDENTITIES: Final = Kind(
    "AzureAssignedIdentity", "azureassignedidentities", AzureAssignedIdentity, GROUP, old_spellings=True
)
EXCEPTIONS: Final = Kind(
    "AzurePodIdentityException", "azurepodidentityexceptions", AzurePodIdentityException, GROUP, old_spellings=True
)


class Field(NamedTuple):
    """A field of one of our kinds."""

    present: str
    """How it is spelled now."""
    read: type[Wire] | None
    """What its value is read into, where that has fields of its own."""
    shape: type[Wire] | None
    """The same where those fields have old spellings too. Metadata never had any."""


@cache
def spellings(shape: type[Wire]) -> Mapping[str, Field]:
    """The fields of *shape* by their present names, and by those in lower case."""
    fields = [_field(field.encode_name, field.type) for field in msgspec.structs.fields(shape)]
    return {name: field for field in fields for name in (field.present, field.present.lower())}


@cache
def _folded(shape: type[Wire]) -> Mapping[str, Field]:
    """The same with those that every spec may hold and nobody reads."""
    unread = ("metadata", "replicas") if issubclass(shape, Spec) else ()
    return {**spellings(shape), **{name: Field(name, None, None) for name in unread}}


def _field(name: str, annotation: Any) -> Field:
    parts = (annotation, *get_args(annotation))
    read = next((each for each in parts if isinstance(each, type) and issubclass(each, Wire)), None)
    return Field(name, read, None if read is None or issubclass(read, BareMeta) else read)


def fold(document: Mapping[str, Any], shape: type[Wire]) -> dict[str, Any]:
    """*document*, which is read into *shape*, with every field of it in its present spelling; the rest as it is.

    A field already so spelled wins over an older spelling, unless it is null; an older spelling that is null is left
    out. Metadata, the label map of an exception and what *shape* does not know are the user's own words.
    """
    fields = _folded(shape)
    folded: dict[str, Any] = {}
    for name, value in document.items():
        field = fields.get(name) or fields.get(name.lower())
        present, inner = (field.present, field.shape) if field is not None else (name, None)
        if name != present and (value is None or document.get(present) is not None):
            continue
        if value is None and present in folded:
            continue
        folded[present] = fold(value, inner) if inner is not None and isinstance(value, dict) else value
    return folded


def nodename_label(node: str) -> str:
    """The value under which an assigned identity's label names its node: label values hold 63 characters at most.

    NMI selects by it and MIC writes it, so both must call this. A longer name keeps its beginning, for people, and
    ends in ten hex digits of its own SHA-256.
    """
    if len(node) <= LABEL_VALUE_MAX:
        return node
    digest = sha256(node.encode()).hexdigest()[:10]
    return f"{node[: LABEL_VALUE_MAX - 11].rstrip('-._')}-{digest}"
