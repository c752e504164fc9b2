"""What is known of one pod and of all that leads to its token, as values.

Where something could not be read, that stands there as `Unread`, with the reason: what is not known is not taken for
absent.
"""

from dataclasses import dataclass, field

from mic.azure.identities import HostIdentities
from nmi.settings import Settings
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.nmi_log import LoggedDecision
from podidentity.azure.errors import AzureError
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
class ReadFailure:
    """It could not be read."""

    why: str
    """And what to do about it."""


@dataclass(frozen=True, slots=True)
class NmiConfiguration:
    """By which NMI decides."""

    settings: Settings
    source: str
    """Where they come from, for people."""
    cloud_file: str = ""
    """The AZURE_ENVIRONMENT_FILEPATH of NMI's pod: a file there, which says what else is a sign-in endpoint."""
    is_given: bool = False
    """Whether somebody said them: then NMI runs, though perhaps in no pod that is known for NMI's."""


@dataclass(frozen=True, slots=True)
class NmiPods:
    """What runs of NMI on the pod's node."""

    here: tuple[Daemon, ...] = ()
    elsewhere: bool = False
    """Whether there is any on another node, where there is none here."""


@dataclass(frozen=True, slots=True)
class ServiceAccountAccess:
    """The pod's service account, by which it proves itself where its identity is federated."""

    exists: bool | ReadFailure
    nmi_may_request: bool | ReadFailure | None
    """Whether NMI may ask for its tokens; None where NMI's own service account is not known."""
    nmi: str = ""
    """NMI's own, as `namespace/name`."""


class EventSource(Wire, frozen=True):
    component: str = ""
    host: str = ""


class Event(Resource, frozen=True):
    """A Kubernetes Event, in the older form that NMI and MIC write."""

    type: str = ""
    reason: str = ""
    message: str = ""
    count: int | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    source: EventSource = EventSource()

    @property
    def at(self) -> str:
        return self.last_timestamp or self.event_time or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisInput:
    """All of it, of one moment as far as several reads can be of one."""

    namespace: str
    name: str
    configuration: NmiConfiguration
    pod: Pod | None = None
    same_address_pods: tuple[Pod, ...] = ()
    """Other live pods at one of its addresses on its node."""
    exceptions: tuple[AzurePodIdentityException, ...] = ()
    """Of its namespace."""
    bindings: tuple[AzureIdentityBinding, ...] = ()
    """Of all namespaces, as are the identities."""
    identities: tuple[AzureIdentity, ...] = ()
    assigned: tuple[AzureAssignedIdentity, ...] = ()
    """Those that name the pod."""
    node: Node | ReadFailure | None = None
    nmi: NmiPods | ReadFailure = field(default_factory=NmiPods)
    events: tuple[Event, ...] | ReadFailure = ()
    """NMI's and MIC's about the pod, the latest first."""
    decisions: tuple[LoggedDecision, ...] | ReadFailure = ()
    """What NMI's log says of the pod, the latest first."""
    azure: HostIdentities | AzureError | None = None
    """What is on the node's VM or scale set; None where Azure was not asked."""
    account: ServiceAccountAccess | None = None
    """None where nobody looked: without a federated identity it plays no part."""
