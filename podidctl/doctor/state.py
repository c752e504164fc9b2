"""What the checks look at, as values. What could not be read is `Unread`, with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.input import ReadFailure
from podidentity.kube.lock_records import Record
from podidentity.resources import (
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    Node,
    Pod,
    Resource,
    Wire,
)


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the API server says of itself."""

    version: str
    """As `gitVersion` has it."""
    ahead_seconds: float | None = None
    """Its clock against ours; None where its answer had no date."""
    uncertain_seconds: float = 0.0
    """Half of how long the answer took, and half of a second, in which it tells the time."""


class Version(Wire, frozen=True):
    name: str = ""
    served: bool = False
    storage: bool = False
    schema: dict[str, Any] | None = None

    @property
    def keeps_unknown(self) -> bool:
        """Whether spec keeps fields that the schema does not name: old spellings are such."""
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


class DefinitionStatus(Wire, frozen=True):
    stored_versions: list[str] | None = None


class Definition(Resource, frozen=True):
    """A CustomResourceDefinition."""

    spec: DefinitionSpec = DefinitionSpec()
    status: DefinitionStatus = DefinitionStatus()


@dataclass(frozen=True, slots=True)
class StoredObjects:
    """How the objects of one kind are stored."""

    old: tuple[str, ...] = ()
    """Those in spellings from before v1.6.0, as `namespace/name`."""
    unreadable: tuple[str, ...] = ()


class ObjectReference(NamedTuple):
    """One object of any kind."""

    plural: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Objects:
    """Everything of our kinds, and whom it is for."""

    identities: tuple[AzureIdentity, ...] = ()
    bindings: tuple[AzureIdentityBinding, ...] = ()
    exceptions: tuple[AzurePodIdentityException, ...] = ()
    assigned: tuple[AzureAssignedIdentity, ...] = ()
    pods: tuple[Pod, ...] = ()
    """Those with the label of a binding."""
    nodes: tuple[Node, ...] = ()
    created_at: Mapping[ObjectReference, datetime] = field(default_factory=dict)
    """Since when they are there; pods, since when they are on their node. What is not in it counts as old."""


@dataclass(frozen=True, slots=True)
class Locks:
    """The two leader locks of one name; None where there is no such object."""

    namespace: str
    name: str
    lease: Record | None = None
    endpoints: Record | None = None


@dataclass(frozen=True, slots=True)
class Right:
    """Something that a program must be allowed to do."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    needed: bool = True
    """False: it does without, but not as well."""
    purpose: str = ""

    @property
    def description(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{'.' + self.group if self.group else ''}{where}"


@dataclass(frozen=True, slots=True)
class Rights:
    """What one service account lacks."""

    program: str
    account: str
    """`namespace/name`."""
    lacking: tuple[Right, ...] = ()


@dataclass(frozen=True, slots=True)
class SecretAccess:
    """Which Secrets one service account of NMI may get."""

    account: str
    """`namespace/name`."""
    everywhere: bool = False
    needed: tuple[str, ...] = ()
    """The namespaces of the Secrets that AzureIdentities name."""
    forbidden: tuple[str, ...] = ()
    """Those of them in which it may not."""


@dataclass(frozen=True, slots=True)
class FederatedAccess:
    """What federated identities need beside themselves."""

    accounts: Mapping[str, frozenset[str] | ReadFailure] = field(default_factory=dict)
    """The names of the service accounts that are there, by namespace."""
    forbidden: Mapping[str, tuple[str, ...]] | ReadFailure = field(default_factory=dict)
    """By NMI's own service account (`namespace/name`), the others of whose tokens it may not ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """All that was read of the cluster."""

    now: datetime
    server: ServerState | ReadFailure
    definitions: Mapping[str, Definition | ReadFailure | None] = field(default_factory=dict)
    """By plural; None: not installed."""
    stored: Mapping[str, StoredObjects] = field(default_factory=dict)
    """By plural."""
    objects: Objects | ReadFailure = field(default_factory=Objects)
    nmi: tuple[Daemon, ...] | ReadFailure = ()
    mic: tuple[Daemon, ...] | ReadFailure = ()
    locks: tuple[Locks, ...] | ReadFailure = ()
    rights: tuple[Rights, ...] | ReadFailure = ()
    secrets: tuple[SecretAccess, ...] | ReadFailure = ()
    federation: FederatedAccess = field(default_factory=FederatedAccess)

    @property
    def server_time(self) -> datetime:
        """The same moment by the API server's clock, which dates what is made."""
        ahead = self.server.ahead_seconds if isinstance(self.server, ServerState) else None
        return self.now + timedelta(seconds=ahead or 0.0)
