"""Objects that the review is computed from: one list per kind, read once. A failed read is a `ReadFailure`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mic.azure.identities import HostIdentities
from podidctl.access.projections import ReviewedPod, Role, RoleBinding
from podidctl.facts.kinds import Daemon, PlacedNode
from podidctl.facts.model import ReadFailure
from podidentity.azure.errors import AzureError
from podidentity.resources import (
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
)


@dataclass(frozen=True, slots=True)
class Rbac:
    """Roles and their bindings."""

    roles: tuple[Role, ...] = ()
    cluster_roles: tuple[Role, ...] = ()
    role_bindings: tuple[RoleBinding, ...] = ()
    cluster_role_bindings: tuple[RoleBinding, ...] = ()


@dataclass(frozen=True, slots=True)
class AzureState:
    """Azure's responses about the hosts."""

    answers: Mapping[str, HostIdentities | AzureError] = field(default_factory=dict)
    """By the host's key."""
    own_identity: str = ""
    """The cluster's own identity, by client id or resource id."""


class Doubt(NamedTuple):
    """Objects with fields in the spellings from before v1.6.0, of which it is not known whether MIC counts them."""

    names: tuple[str, ...]
    """`namespace/name`."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterObjects:
    """The objects. The reads do not form a transaction."""

    read_at: str
    """RFC 3339, UTC."""
    identities: tuple[AzureIdentity, ...] | ReadFailure = ()
    bindings: tuple[AzureIdentityBinding, ...] | ReadFailure = ()
    exceptions: tuple[AzurePodIdentityException, ...] | ReadFailure = ()
    assigned: tuple[AzureAssignedIdentity, ...] | ReadFailure = ()
    pods: tuple[ReviewedPod, ...] | ReadFailure = ()
    nodes: tuple[PlacedNode, ...] | ReadFailure = ()
    nmi: tuple[Daemon, ...] | ReadFailure = ()
    mic: tuple[Daemon, ...] | ReadFailure = ()
    rbac: Rbac | ReadFailure = field(default_factory=Rbac)
    azure: AzureState | None = None
    """None if Azure was not asked."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """By plural: objects that cannot be read, and that NMI and MIC ignore too."""
    doubtful: Mapping[str, Doubt] = field(default_factory=dict)
    """By plural. These fields were not read."""
