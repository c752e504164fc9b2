"""Input of a diagnosis: the state of one pod and of all objects that its token depends on.

A value that could not be read is a `ReadFailure` with the reason, so that it is not mistaken for an absent one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from mic.azure.identities import HostIdentities
from nmi.settings import Settings
from nmi.tokens.secrets import CredentialError
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.nmi_log import LoggedDecision
from podidctl.diagnosis.node_placement import PlacedNode
from podidentity.azure.errors import AzureError
from podidentity.resources import (
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    Pod,
    Resource,
    Wire,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """A failed read."""

    why: str
    """The reason."""
    is_forbidden: bool = True
    """Whether more permissions would help; False if the API server failed."""

    def next_action(self, right: str) -> str:
        """Return the next action; *right* is the permission that the read needs."""
        if self.is_forbidden:
            return f"run this command with more permissions ({right})"
        return "try again; if it fails again, check the API server: kubectl get --raw /readyz?verbose"


def readable(several: tuple[T, ...] | ReadFailure) -> tuple[T, ...]:
    """Return the objects, or none if they could not be read."""
    return () if isinstance(several, ReadFailure) else several


SecretCheck = CredentialError | ReadFailure | None
"""NMI's reason why it cannot use a Secret, or a failed read; None for a usable Secret."""

IdentityKey = tuple[str, str]
"""Namespace and name of an AzureIdentity."""


@dataclass(frozen=True, slots=True)
class NmiConfiguration:
    """Settings that NMI decides by."""

    settings: Settings
    source: str
    """Origin of the settings, in words for the operator."""
    cloud_file: str = ""
    """AZURE_ENVIRONMENT_FILEPATH of NMI's pod: a file in that pod, which can name further sign-in endpoints."""
    is_given: bool = False
    """Whether the operator passed the settings. NMI then runs, perhaps in no pod that has NMI's label."""


@dataclass(frozen=True, slots=True)
class NmiPods:
    """NMI pods, from the point of view of the pod's node."""

    here: tuple[Daemon, ...] = ()
    others: tuple[Daemon, ...] = ()
    """NMI pods of other nodes, and those that are not scheduled yet. Read only if this node has none."""


@dataclass(frozen=True, slots=True)
class ServiceAccountAccess:
    """State of the pod's service account, which a federated identity trusts."""

    exists: bool | ReadFailure
    nmi_may_request: bool | ReadFailure | None
    """Whether NMI may request its tokens; None if NMI's own service account is not known."""
    nmi: str = ""
    """NMI's service account, as `namespace/name`."""


@dataclass(frozen=True, slots=True)
class IdentityPermissions:
    """Permission of the pod's service account to use identities at the cluster's token proxy."""

    allowed: Mapping[str, bool]
    """By client id, in lower case. Identities beyond the limit of one command are missing."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisInput:
    """State around one pod. The reads do not form a transaction."""

    namespace: str
    name: str
    configuration: NmiConfiguration
    pod: Pod | None = None
    same_address_pods: tuple[Pod, ...] = ()
    """Other running pods on its node with one of its addresses."""
    exceptions: tuple[AzurePodIdentityException, ...] = ()
    """Exceptions in its namespace."""
    bindings: tuple[AzureIdentityBinding, ...] = ()
    """Bindings of all namespaces, as with the identities."""
    identities: tuple[AzureIdentity, ...] = ()
    assigned: tuple[AzureAssignedIdentity, ...] = ()
    """AzureAssignedIdentities that name the pod."""
    ignored_fields: Mapping[tuple[str, str, str], tuple[str, ...]] = field(default_factory=dict)
    """Fields of exceptions, bindings and identities that NMI and MIC ignore because they are spelled as before v1.6.0,
    by the kind's plural, namespace and name."""
    node: PlacedNode | ReadFailure | None = None
    nmi: NmiPods | ReadFailure = field(default_factory=NmiPods)
    events: tuple[Event, ...] | ReadFailure = ()
    """Events of NMI and MIC about the pod, latest first."""
    decisions: tuple[LoggedDecision, ...] | ReadFailure = ()
    """Decisions about the pod in NMI's log, latest first."""
    azure: HostIdentities | AzureError | None = None
    """Identities on the node's VM or scale set; None if Azure was not asked."""
    account: ServiceAccountAccess | None = None
    """None if not read: only federated identities depend on it."""
    permissions: IdentityPermissions | ReadFailure | None = None
    """None if not read: only identities with identity bindings depend on it."""
    secrets: Mapping[IdentityKey, SecretCheck] = field(default_factory=dict)
    """Checks of the Secrets of the pod's service principals (types 1 and 2)."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Time of the reads, by the API server's clock."""
