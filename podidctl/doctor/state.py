"""State that the checks read. A value that could not be read is a `ReadFailure` with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from mic.azure.identities import HostIdentities
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.input import IdentityKey, ReadFailure, SecretCheck
from podidctl.diagnosis.node_placement import PlacedNode
from podidctl.diagnosis.recent_refusals import RecentRefusal
from podidctl.doctor.ebpf_host_routing import RuleMonitor
from podidentity.azure.errors import AzureError
from podidentity.kube.lock_records import LockRecord
from podidentity.resources import (
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    Pod,
    Resource,
    Wire,
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
            isinstance(each, dict) and each.get("x-kubernetes-preserve-unknown-fields") is True
            for each in (spec, whole)
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


@dataclass(frozen=True, slots=True)
class StoredObjects:
    """Stored form of the objects of one kind."""

    old: tuple[str, ...] = ()
    """Objects in field spellings from before v1.6.0, as `namespace/name (fields)`."""
    unreadable: tuple[str, ...] = ()


class ObjectReference(NamedTuple):
    """Reference to one object of any kind."""

    plural: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Objects:
    """The custom resources, and the pods and nodes that they apply to."""

    identities: tuple[AzureIdentity, ...] = ()
    bindings: tuple[AzureIdentityBinding, ...] = ()
    exceptions: tuple[AzurePodIdentityException, ...] = ()
    assigned: tuple[AzureAssignedIdentity, ...] = ()
    pods: tuple[Pod, ...] = ()
    """Labelled pods."""
    nodes: tuple[PlacedNode, ...] = ()
    created_at: Mapping[ObjectReference, datetime] = field(default_factory=dict)
    """Creation times; for pods, the time of scheduling. An object that is missing here counts as old."""


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
    needed: bool = True
    """False if the program works without it, with a limitation."""
    purpose: str = ""

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
class RefusedPod:
    """A pod whose last known request NMI refused."""

    pod: str
    """`namespace/name`."""
    refusal: RecentRefusal


@dataclass(frozen=True, slots=True)
class FederatedAccess:
    """State that federated identities depend on."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """State of the cluster."""

    now: datetime
    server: ServerState | ReadFailure
    definitions: Mapping[str, Definition | ReadFailure | None] = field(default_factory=dict)
    """By plural; None if not installed."""
    stored: Mapping[str, StoredObjects] = field(default_factory=dict)
    """By plural."""
    objects: Objects | ReadFailure = field(default_factory=Objects)
    nmi: tuple[Daemon, ...] | ReadFailure = ()
    mic: tuple[Daemon, ...] | ReadFailure = ()
    locks: tuple[Locks, ...] | ReadFailure = ()
    rights: tuple[Rights, ...] | ReadFailure = ()
    secrets: tuple[SecretAccess, ...] | ReadFailure = ()
    credentials: Mapping[IdentityKey, SecretCheck] | ReadFailure = field(default_factory=dict)
    """Checks of the Secrets of service principals, by identity."""
    refused: tuple[RefusedPod, ...] | ReadFailure = ()
    azure: Mapping[str, HostIdentities | AzureError] | None = None
    """Azure's response for the hosts of labelled pods, by key; None if Azure was not asked."""
    federation: FederatedAccess = field(default_factory=FederatedAccess)
    daemon_uses: DaemonUses = field(default_factory=DaemonUses)
    rule_monitor: RuleMonitor = field(default_factory=RuleMonitor)

    @property
    def server_time(self) -> datetime:
        """`now` by the API server's clock, which sets creation times."""
        ahead = self.server.ahead_seconds if isinstance(self.server, ServerState) else None
        return self.now + timedelta(seconds=ahead or 0.0)
