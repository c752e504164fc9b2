"""State that the commands evaluate. A value that could not be read is a `ReadFailure` with the reason, so that it is
not mistaken for an absent one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from mic.azure.identities import HostIdentities
from nmi.settings import NmiSettings
from nmi.tokens.secrets import CredentialError
from podidctl.facts.kinds import Daemon, Definition, Event, PlacedNode
from podidctl.facts.rbac import Rbac
from podidctl.facts.workloads import Owner
from podidctl.report.documents import LoggedDecision, RoleAssignment
from podidentity.azure.errors import AzureError
from podidentity.azure.resource_ids import UserAssignedIdentity
from podidentity.kube.lock_records import LockRecord
from podidentity.resources import (
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    Pod,
)

T = TypeVar("T")
IdentityKey = tuple[str, str]
"""Namespace and name of an AzureIdentity."""
PodKey = tuple[str, str]
"""Name (`namespace/name`) and uid of a pod."""
RULES_LABEL: Final = "kubernetes.azure.com/user-iptables-rules"
"""AKS's monitor sets it on the CiliumNode: `true` if a rule of iptables on the node is not one that AKS expects."""
UNEXPECTED: Final = "UnexpectedIPTablesRules"
BLOCKED: Final = "BlockedIPTablesRule"
REASONS: Final = (UNEXPECTED, BLOCKED)
"""Reasons of the Events of AKS's monitor, about nodes."""
RULE_EVENTS_MAX: Final = 1000
"""Events of one reason that are read; others than AKS may create them."""


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """A failed read."""

    reason: str
    is_forbidden: bool = True
    """Whether more permissions would help; False if the API server failed."""

    def next_action(self, right: str) -> str:
        """Return the next action; *right* is the permission that the read needs."""
        if self.is_forbidden:
            return f"run this command with more permissions ({right})"
        return (
            "try again, with --request-timeout=30s if the API server is slow; if it fails again, check it: kubectl get "
            "--raw /readyz?verbose"
        )


def readable(several: Sequence[T] | ReadFailure) -> Sequence[T]:
    """Return the objects, or none if they could not be read."""
    return () if isinstance(several, ReadFailure) else several


SecretCheck = CredentialError | ReadFailure | None
"""NMI's reason why it cannot use a Secret, or a failed read; None for a usable Secret."""


@dataclass(frozen=True, slots=True)
class NmiConfiguration:
    """Settings that NMI decides by."""

    settings: NmiSettings
    source: str
    """Origin of the settings, in words for the operator."""
    cloud_file: str = ""
    """AZURE_ENVIRONMENT_FILEPATH of NMI's pod: a file in that pod, which can name further sign-in endpoints."""
    is_given: bool = False
    """Whether the operator passed the settings. NMI then runs, perhaps in no pod that has NMI's label."""


@dataclass(frozen=True, slots=True)
class RecentRefusal:
    """A refusal that no later grant resolves. The texts are untrusted."""

    at: datetime
    """Time of the refusal or of its last repeat."""
    text: str
    """The cause, with the next action."""
    reason: str = ""
    """NMI's reason, as in the metric; empty if only the Event is known."""
    status: int | None = None
    identity: str = ""
    resource: str = ""
    unanswered: bool = False
    """Whether the client disconnected before the refusal."""

    @property
    def description(self) -> str:
        """Return what was refused, when and how, without the cause."""
        response = " ".join(filter(None, (str(self.status or ""), self.reason)))
        return "".join(
            (
                "the client of the pod's last request" if self.unanswered else "NMI refused the pod's last request",
                f" for {self.resource}" if self.resource else "",
                " disconnected before the response" if self.unanswered else "",
                f" at {self.at:%H:%M:%S} UTC",
                f" ({response})" if response else "",
            )
        )


@dataclass(frozen=True, slots=True)
class ServerState:
    """The API server's version and clock."""

    version: str
    """The server's `gitVersion`."""
    ahead_seconds: float | None = None
    """Its clock minus this machine's; None if its response had no date."""
    uncertain_seconds: float = 0.0
    """Half of the response time plus half a second, the resolution of the date."""
    failure: ReadFailure | None = None
    """Why the version is unknown."""

    def is_older(self, minor: int) -> bool:
        """Return whether this is a Kubernetes before 1.*minor*; False for an unknown version."""
        match = re.match(r"v1\.(\d+)", self.version)
        return match is not None and int(match[1]) < minor


@dataclass(frozen=True, slots=True)
class StoredObjects:
    """Stored form of the objects of one kind."""

    old: tuple[str, ...] = ()
    """Objects with field names from before v1.6.0, as `namespace/name (fields)`."""
    unreadable: tuple[str, ...] = ()


class ObjectReference(NamedTuple):
    """Reference to one object of any kind."""

    plural: str
    namespace: str
    name: str


class MeantLabel(NamedTuple):
    """Label whose key is meant to be the one of bindings."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class AzureState:
    """Azure's responses about the hosts."""

    responses: Mapping[str, HostIdentities | AzureError] = field(default_factory=dict)
    """By the host's key."""
    own_identity: str = ""
    """The cluster's own identity, by client id or resource id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityRoles:
    """Azure's response about the role assignments of one identity. The texts of the assignments are untrusted."""

    resource: UserAssignedIdentity | None = None
    """None if the AzureIdentity names no managed identity; nothing was read then."""
    principal: str = ""
    """The identity's object id."""
    assignments: tuple[RoleAssignment, ...] = ()
    """Sorted. Those in the identity's subscription and above it."""
    is_complete: bool = True
    fault: str = ""
    """Why they could not be read."""


class UncertainFields(NamedTuple):
    """Objects with field names from before v1.6.0, of which it is not known whether MIC counts them."""

    names: tuple[str, ...]
    """`namespace/name`."""
    reason: str


@dataclass(frozen=True, slots=True)
class Locks:
    """The two leader locks of one name; None if the object does not exist."""

    namespace: str
    name: str
    lease: LockRecord | None = None
    endpoints: LockRecord | None = None


@dataclass(frozen=True, slots=True)
class Right:
    """A permission that a program needs."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    purpose: str = ""
    """What does not work without it; empty if the program does not work at all."""

    @property
    def description(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{'.' + self.group if self.group else ''}{where}"


@dataclass(frozen=True, slots=True)
class Rights:
    """Missing and superfluous permissions of one service account."""

    program: str
    account: str
    """`namespace/name`."""
    lacking: tuple[Right, ...] = ()
    spare: tuple[Right, ...] = ()
    """Permissions for MIC's type upgrade, which is done or disabled."""
    unread_record: ReadFailure | None = None
    """Failed read of the record of the type upgrade: *lacking* and *spare* are without its permissions."""


@dataclass(frozen=True, slots=True)
class SecretAccess:
    """Permission of one service account of NMI to get Secrets."""

    account: str
    """`namespace/name`."""
    everywhere: bool = False
    needed: tuple[str, ...] = ()
    """Namespaces of the Secrets that AzureIdentities name."""
    forbidden: tuple[str, ...] = ()
    """The needed namespaces without permission."""
    unchecked: int = 0
    """Number of needed namespaces beyond the limit of one command."""


@dataclass(frozen=True, slots=True)
class FederatedAccess:
    """State that federated identities depend on; of one pod, about its service account. Empty if not read."""

    accounts: Mapping[str, frozenset[str] | ReadFailure] = field(default_factory=dict)
    """Names of the existing service accounts, by namespace."""
    forbidden: Mapping[str, tuple[str, ...]] | ReadFailure = field(default_factory=dict)
    """By NMI's service account (`namespace/name`), the service accounts whose tokens it may not request."""
    unchecked: int = 0
    """Number of service accounts beyond the limit of one command."""
    unpermitted: Mapping[str, tuple[str, ...]] | ReadFailure = field(default_factory=dict)
    """By client id (lower case) of identities with identity bindings, the service accounts that may not use them."""
    unchecked_uses: int = 0
    """Number of pairs of service account and such an identity beyond the limit of one command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonUse:
    """Permission of a daemon's service account to use identities at the token proxy of AKS identity bindings."""

    program: str
    account: str
    """`namespace/name`."""
    client_ids: tuple[str, ...] = ()
    """In lower case; empty for all identities."""
    binding: str = ""
    """The ClusterRoleBinding; empty if another authorizer, or an object that was not read, gives the permission."""
    role: str = ""
    group: str = ""
    """The group of the service account that is the binding's subject; empty if it is the service account itself."""
    other_subjects: int = 0
    """Number of the binding's other subjects."""
    is_general: bool = False
    """Whether the role's rule covers all API groups."""
    reason: str = ""
    """The API server's reason, if there is no *binding*."""


@dataclass(frozen=True, slots=True)
class DaemonUses:
    """Permissions of the daemons' service accounts to use identities by AKS identity bindings."""

    by_bindings: tuple[DaemonUse, ...] | ReadFailure = ()
    """By the cluster's ClusterRoles and ClusterRoleBindings."""
    by_reviews: tuple[DaemonUse, ...] | ReadFailure = ()
    """By the API server's access reviews; without those that *by_bindings* has."""
    unchecked: int = 0
    """Number of access reviews beyond the limit of one command."""


@dataclass(frozen=True, slots=True)
class RuleMonitor:
    """What AKS's monitor of iptables reports. Anyone with permission to create Events there can forge the Events."""

    with_rules: frozenset[str] | ReadFailure = frozenset()
    """CiliumNodes whose label reports rules that AKS does not expect."""
    events: Mapping[str, frozenset[str]] | ReadFailure = field(default_factory=dict)
    """Names of the nodes in its Events, by the reason."""
    with_more_events: frozenset[str] = frozenset()
    """Reasons of which only RULE_EVENTS_MAX Events were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """State of the cluster, or of its part around one pod, as far as the command has read it. The reads do not form a
    transaction.
    """

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Time of the reads by this machine's clock."""
    server: ServerState = ServerState("", failure=ReadFailure("it was not read"))
    definitions: Mapping[str, Definition | ReadFailure | None] = field(default_factory=dict)
    """By plural; None if not installed."""
    stored: Mapping[str, StoredObjects] = field(default_factory=dict)
    """By plural."""

    # Around one pod, identities and bindings are those of all namespaces, and the others those that are about the pod.
    identities: tuple[AzureIdentity, ...] = ()
    bindings: tuple[AzureIdentityBinding, ...] = ()
    exceptions: tuple[AzurePodIdentityException, ...] = ()
    assigned: tuple[AzureAssignedIdentity, ...] = ()
    pods: tuple[Pod, ...] = ()
    """Labelled pods; for the access review, of the type `ReviewedPod`, all pods; around one pod, this one and others
    that run on its node with one of its addresses."""
    nodes: tuple[PlacedNode, ...] = ()
    unread: Mapping[str, ReadFailure] = field(default_factory=dict)
    """Failed reads of these six fields, which are then empty, by the field's name."""
    created_at: Mapping[ObjectReference, datetime] = field(default_factory=dict)
    """Creation times; for pods, the time of scheduling. An object that is missing here counts as old."""
    ignored_fields: Mapping[ObjectReference, tuple[str, ...]] = field(default_factory=dict)
    """Fields of exceptions, bindings and identities that NMI and MIC ignore because they are spelled as before
    v1.6.0."""
    uncertain: Mapping[str, UncertainFields] = field(default_factory=dict)
    """By plural. These fields were not read."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """By plural: objects that cannot be read, and that NMI and MIC ignore too."""

    nmi: tuple[Daemon, ...] | ReadFailure = ()
    """Around one pod, NMI's pods of other nodes are read only if its node has none."""
    mic: tuple[Daemon, ...] | ReadFailure = ()
    locks: tuple[Locks, ...] | ReadFailure = ()
    rbac: Rbac | ReadFailure = field(default_factory=Rbac)
    rights: tuple[Rights, ...] | ReadFailure = ()
    secrets: tuple[SecretAccess, ...] | ReadFailure = ()
    credentials: Mapping[IdentityKey, SecretCheck] | ReadFailure = field(default_factory=dict)
    """Checks of the Secrets of service principals, by identity."""
    refused: Mapping[str, RecentRefusal] | ReadFailure = field(default_factory=dict)
    """The pods whose last known request NMI refused, by `namespace/name`."""
    unassigned: Mapping[PodKey, tuple[Event, ...]] | ReadFailure = field(default_factory=dict)
    """MIC's recent Events about identities that it has not assigned, latest first."""
    mislabelled: Mapping[str, MeantLabel] | ReadFailure = field(default_factory=dict)
    """The pods (`namespace/name`) without the label of bindings, but with one that is meant to be it."""
    azure: AzureState | None = None
    """None if the command does not read Azure."""
    federation: FederatedAccess = field(default_factory=FederatedAccess)
    roles: IdentityRoles | None = None
    """Of the identity that a request without a client id gets. None if the command does not read them."""
    daemon_uses: DaemonUses = field(default_factory=DaemonUses)
    rule_monitor: RuleMonitor = field(default_factory=RuleMonitor)

    scope: IdentityKey = ("", "")
    """Namespace and name of the one pod; empty for the cluster. The following facts are about it."""
    configuration: NmiConfiguration | None = None
    """NMI's configuration; None for the one in the flags of NMI's pod."""
    owner: Owner | None = None
    """The workload that created the pod. Read only if the pod has no label; None also if it could not be read."""
    events: tuple[Event, ...] | ReadFailure = ()
    """Events of NMI and MIC, latest first."""
    decisions: tuple[LoggedDecision, ...] | ReadFailure = ()
    """Decisions in NMI's log, latest first."""

    @property
    def server_time(self) -> datetime:
        """`now` by the API server's clock, which sets creation times and the times of Events."""
        return self.now + timedelta(seconds=self.server.ahead_seconds or 0.0)

    @property
    def pod(self) -> Pod | None:
        """The one pod; None if it does not exist."""
        return next((pod for pod in self.pods if pod.key == self.scope), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailClosedState:
    """State of this machine."""

    wanted: bool
    """Whether this node's NMI has --fail-closed."""
    fault: str | ReadFailure | None
    """Fault of the reject rule; None if it is in force."""
    restricted: tuple[str, ...] | ReadFailure
    """Tables that contain AKS's rule."""
    guard: bool | ReadFailure
    """Whether the boot guard is enabled."""
    localnet: str | None
    """Why the kernel drops packets redirected to 127.0.0.1; None if it does not or nothing is redirected there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """State of this machine."""

    name: str
    fault: str | ReadFailure | None
    """Fault of the redirect; None if it is correct."""
    wanted: bool = True
    """Whether this node's NMI installs a redirect."""
    choice: str = ""
    """Backend and target of the redirect, and the reason; "" if nothing is redirected by a rule."""
    bypass: str | None = None
    """Why the rule is not effective on this node; None if nothing shows that."""
    ebpf: bool = False
    """Whether the kubelet's flags have the label of eBPF host routing, so that NMI writes no rule."""
    packets: int | None = None
    """First packets of connections that have matched the rule since it was written; None if not counted."""
    pods: int | None = 0
    """Labelled pods on this node that are not on the host's network; None if they could not be read."""
    kubenet: bool = False
    """Whether the kubelet's flags name kubenet."""
    imds: str | ReadFailure | None = None
    """IMDS's response; None if no request was sent."""
    closing: FailClosedState | None = None
    """State of the mechanisms for the time without NMI; None if nothing is redirected."""
