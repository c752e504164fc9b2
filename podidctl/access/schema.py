"""Schema of the access review, which is also the document of the machine-readable output. Pure.

Objects refer to each other by name: `namespace/name` for namespaced objects, the name for nodes, the Azure id for hosts
(`node:<name>` for a node whose VM or scale set is not known). Lists are sorted.
"""

from enum import StrEnum
from typing import Final

import msgspec

from podidctl.report.documents import NamespacedPart
from podidentity.report import ReportModel

SCHEMA_VERSION: Final = 1


def short_name(resource_id: str) -> str:
    """Return the last part of an Azure id, which names the resource."""
    return resource_id.rpartition("/")[2] or resource_id


class GrantState(StrEnum):
    """Whether a pod gets tokens of an identity."""

    USABLE = "usable"
    """NMI returns tokens now."""
    PENDING = "pending"
    """A binding gives the identity to the pod, and no complete assignment is known yet."""
    LEFTOVER = "leftover"
    """NMI returns tokens now, and MIC will revoke the assignment because no binding explains it."""
    BYPASSED = "bypassed"
    """The pod's requests do not reach NMI or NMI forwards them, so the pod uses its node's identities instead, if it
    has any."""
    DISABLED = "disabled"
    """NMI runs without `--federated-identities`, so the identity of type 3 is not served."""
    POSSIBLE = "possible"
    """NMI does not serve it, but the pod runs with a service account that Azure probably trusts for the identity of
    type 3."""


class Way(StrEnum):
    """A way in which a pod reaches the identities of its node without NMI's decision."""

    HOST_NETWORK = "hostNetwork"
    PRIVILEGED = "privileged"
    HOST_PROCESS = "hostProcess"
    """A Windows container in the node's namespaces."""
    CAPABILITY = "capability"
    HOST_PID = "hostPID"
    HOST_IPC = "hostIPC"
    """Always undecided."""
    PROC_MOUNT = "procMount"
    HOST_PATH = "hostPath"
    EXCEPTION = "exception"
    MIC = "mic"
    NO_NMI = "noNMI"


TAKES_OVER: Final = frozenset(
    {Way.PRIVILEGED, Way.HOST_PROCESS, Way.CAPABILITY, Way.HOST_PID, Way.PROC_MOUNT, Way.HOST_PATH}
)
"""Ways with which a pod can take over its node or the pods there, with the credentials of the kubelet and of NMI."""


class Action(StrEnum):
    """Effect of a permission."""

    BINDINGS = "write bindings"
    IDENTITIES = "write identities"
    EXCEPTIONS = "write exceptions"
    ASSIGNED = "write assigned identities"
    PODS = "create pods"
    LABELS = "label pods"
    WORKLOADS = "create workloads"
    EXEC = "run commands in pods"
    TOKENS = "request service account tokens"
    SECRETS = "read secrets of identities"
    ROLES = "grant permissions"
    IMPERSONATE = "impersonate"
    ADMISSION = "change pods at admission"


class Explained(StrEnum):
    """Why an identity is attached to a host."""

    PODS = "pods"
    """Pods on the host have it through a binding."""
    ASSIGNMENT = "assignment"
    """An AzureAssignedIdentity remains that no binding explains."""
    CLUSTER = "cluster"
    """The identity of the cluster itself, as the cloud config states."""
    NOTHING = "nothing"
    """No object in the cluster explains it: the kubelet, an add-on, or an operator's own use."""


class Unknown(ReportModel, frozen=True, kw_only=True):
    """A part of the review that could not be read. What depends on it may be incomplete."""

    part: str
    """The plural of a resource (`pods`), or `azure`."""
    why: str
    right: str
    """The missing permission or the missing option."""


class Rules(ReportModel, frozen=True, kw_only=True):
    """How NMI and MIC decide in this cluster."""

    mode: str
    """`standard` or `managed`."""
    force_namespaced: bool
    federated_identities: bool
    """Whether an NMI serves identities of type 3."""
    source: str
    """Where the settings come from."""


class Scope(ReportModel, frozen=True, kw_only=True):
    """Part of the cluster that the review is restricted to; `kind` is empty for all."""

    kind: str = ""
    """`identity`, `pod`, `node` or `namespace`."""
    name: str = ""


class Identity(NamespacedPart, frozen=True, kw_only=True):
    """One AzureIdentity."""

    type: int
    client_id: str
    resource_id: str
    tenant_id: str
    namespaced: bool
    """Whether it serves only pods in its namespace."""
    secret: str = ""
    """The Secret of a service principal."""
    problem: str = ""
    """Why no pod can have it."""
    bindings: list[str]
    pods: int
    """Pods with a grant."""
    hosts: list[str]
    """Hosts that it is attached to, as far as known."""
    host_pods: int
    """Pods that reach it through one of these hosts."""


class Binding(NamespacedPart, frozen=True, kw_only=True):
    """One AzureIdentityBinding."""

    identity: str
    selector: str
    pods: int
    """Pods with a grant through this binding."""
    problem: str = ""
    critical: str = ""
    """Fault and next action as a sentence without its subject, if the identity is the cluster's own."""


class PodException(NamespacedPart, frozen=True, kw_only=True):
    """One AzurePodIdentityException."""

    labels: dict[str, str]
    """A pod of its namespace with one of these labels is exempt. Values are compared without case."""
    pods: int
    """Pods that are exempt by it now."""


class HostAccess(ReportModel, frozen=True, kw_only=True):
    """One way in which a pod reaches its node's identities, or may do so."""

    way: Way
    detail: str = ""
    """The exception, the capability, the path, or why there is no NMI."""
    why: str = ""
    """What the pod gets by it, or why that is undecided."""

    @property
    def setting(self) -> str:
        """The way and its detail."""
        return f"{self.way} {self.detail}" if self.detail else self.way.value


class PodAccess(NamespacedPart, frozen=True, kw_only=True):
    """One pod that can use an identity, reaches its host, or has the label of a binding."""

    node: str
    label: str
    """Value of the label `aadpodidbinding`."""
    service_account: str
    workload: str
    """Kind and name of the owner; of a Deployment's pod the Deployment."""
    program: str = ""
    """`nmi` or `mic`."""
    mirror: bool = False
    host_access: list[HostAccess] = msgspec.field(default_factory=list)
    undecided_access: list[HostAccess] = msgspec.field(default_factory=list)
    """Settings with which it may take over its node, depending on facts that the API server does not show. They do not
    count for the blast radius."""
    rights: list[Action] = msgspec.field(default_factory=list)
    """What its service account may do."""
    note: str = ""
    """Why it has no identity in spite of its label, or what to check about those that it has: identities of other
    namespaces, and several of which its requests may name none."""

    @property
    def takes_over_node(self) -> bool:
        return any(access.way in TAKES_OVER for access in self.host_access)


class Grant(ReportModel, frozen=True, kw_only=True):
    """One pod's use of one identity, with the path."""

    pod: str
    identity: str
    state: GrantState
    binding: str = ""
    """Empty without one: `leftover` and `possible`."""
    label: str = ""
    assigned_identity: str = ""
    service_account: str = ""
    """For identities of type 3: the service account that Azure must trust."""


class AttachedIdentity(ReportModel, frozen=True, kw_only=True):
    """One identity on one host."""

    resource_id: str
    client_id: str = ""
    identities: list[str] = msgspec.field(default_factory=list)
    """AzureIdentities with this resource id."""
    explained: Explained
    pods: int = 0
    """Pods on the host with a grant of it."""


class Host(ReportModel, frozen=True, kw_only=True):
    """One VM or scale set, or one node that belongs to neither."""

    id: str
    kind: str
    """`VM`, `scale set` or `node`."""
    nodes: list[str]
    read: bool
    """Whether Azure returned the attached identities. If not, they are the ones that objects in the cluster show."""
    problem: str = ""
    """Why it was not read, if Azure was asked."""
    system_assigned: bool | None = None
    """None if not read."""
    attached: list[AttachedIdentity] = msgspec.field(default_factory=list)


class Reach(ReportModel, frozen=True, kw_only=True):
    """Identities within reach."""

    identities: list[str] = msgspec.field(default_factory=list)
    """AzureIdentities."""
    others: list[str] = msgspec.field(default_factory=list)
    """Resource ids of attached identities without an AzureIdentity."""
    system_assigned: bool | None = False
    complete: bool = True
    """Whether the host's identities are known from Azure, if the host is within reach."""


class BlastRadius(ReportModel, frozen=True, kw_only=True):
    """Reach of an attacker in one pod or node."""

    today: Reach
    federated: Reach
    """If every AzureIdentity were of type 3."""
    accounts: list[str] = msgspec.field(default_factory=list)
    """Service accounts of NMI and MIC whose credentials are within reach; see `AccessReview.programs`."""


class NodeAccess(ReportModel, frozen=True, kw_only=True):
    """One node."""

    name: str
    host: str
    nmi: str
    """`ready`, `not ready`, `none`, or `unknown` if no pod of the cluster has NMI's label."""
    pods: int
    """Pods on the node that have not ended."""
    host_pods: list[str]
    """Pods that reach the node's identities."""
    blast_radius: BlastRadius


class ProgramAccess(ReportModel, frozen=True, kw_only=True):
    """Identities within reach of the credentials of NMI or MIC, in addition to those of the node."""

    program: str
    account: str
    """Service account."""
    today: list[str]
    federated: list[str]
    why: str


class SubjectRight(ReportModel, frozen=True, kw_only=True):
    """One permission of a subject."""

    action: Action
    verbs: list[str]
    resources: list[str]
    """Plural with the group and the subresource; as the role states them, so possibly `*`."""
    namespaces: list[str] = msgspec.field(default_factory=list)
    """Empty for all namespaces."""
    names: list[str] = msgspec.field(default_factory=list)
    """Empty for all objects. Of more than 200 names the last element is the number of the others."""
    wildcard: bool = False
    """Whether the role grants it by `*` as verb or resource."""
    via: list[str]
    """Role binding and role."""
    identities: int
    """AzureIdentities that the permission leads to."""


class SubjectAccess(ReportModel, frozen=True, kw_only=True):
    """One subject of role bindings with permissions that lead to identities."""

    kind: str
    """`User`, `Group` or `ServiceAccount`."""
    namespace: str = ""
    name: str
    built_in: bool
    """Whether Kubernetes itself creates the subject (`system:…`)."""
    rights: list[SubjectRight]

    @property
    def full_name(self) -> str:
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {name}"


class Summary(ReportModel, frozen=True, kw_only=True):
    """Totals of the whole cluster, regardless of the scope. None for a part that could not be read."""

    identities: int | None
    bindings: int | None
    pods: int | None
    """Pods that have not ended."""
    pods_with_identities: int | None
    """Pods with a usable or pending grant."""
    host_pods: int | None
    """Pods that reach their node's identities without NMI's decision."""
    undecided_pods: int | None = None
    """Pods of which this is undecided."""
    nodes: int | None
    hosts: int | None
    unexplained: int | None
    """Identities on hosts that nothing explains; None if Azure was not read completely."""
    subjects: int | None
    """Subjects other than those of Kubernetes itself."""


class AccessReview(ReportModel, frozen=True, kw_only=True):
    """The review."""

    schema_version: int = SCHEMA_VERSION
    read_at: str
    """RFC 3339, UTC."""
    scope: Scope = Scope()
    rules: Rules
    azure: str
    """`read`, `partly read`, or `not read`."""
    cluster_identity: str = ""
    """The cluster's own identity, by client id or resource id. Empty if no cloud config names it: bindings of it are
    then not recognized."""
    unknown: list[Unknown]
    summary: Summary
    identities: list[Identity]
    bindings: list[Binding]
    exceptions: list[PodException]
    pods: list[PodAccess]
    grants: list[Grant]
    nodes: list[NodeAccess]
    hosts: list[Host]
    programs: list[ProgramAccess]
    subjects: list[SubjectAccess]
    blast_radius: BlastRadius | None = None
    """Of the pod or node in `scope`."""
