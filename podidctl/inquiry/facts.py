"""What is known of one pod and of all that leads to its token, as values.

Where something could not be read, that stands there as `Unread`, with the reason: what is not known is not taken for
absent.
"""

from dataclasses import dataclass, field

from mic.azure.identities import HostIdentities
from nmi.settings import Settings
from podidctl.inquiry.daemons import Daemon
from podidctl.inquiry.decided import Decided
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
class Unread:
    """It could not be read."""

    why: str
    """And what to do about it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """By which NMI decides."""

    settings: Settings
    whose: str
    """Where they come from, for people."""
    own_cloud: str = ""
    """The AZURE_ENVIRONMENT_FILEPATH of NMI's pod: a file there, which says what else is a sign-in endpoint."""
    given: bool = False
    """Whether somebody said them: then NMI runs, though perhaps in no pod that is known for NMI's."""


@dataclass(frozen=True, slots=True)
class NmiThere:
    """What runs of NMI on the pod's node."""

    here: tuple[Daemon, ...] = ()
    elsewhere: bool = False
    """Whether there is any on another node, where there is none here."""


@dataclass(frozen=True, slots=True)
class Account:
    """The pod's service account, by which it proves itself where its identity is federated."""

    there: bool | Unread
    nmi_may: bool | Unread | None
    """Whether NMI may ask for its tokens; None where NMI's own service account is not known."""
    nmi: str = ""
    """NMI's own, as `namespace/name`."""


class Source(Wire, frozen=True):
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
    source: Source = Source()

    @property
    def at(self) -> str:
        return self.last_timestamp or self.event_time or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All of it, of one moment as far as several reads can be of one."""

    namespace: str
    name: str
    rules: Rules
    pod: Pod | None = None
    beside: tuple[Pod, ...] = ()
    """Other live pods at one of its addresses on its node."""
    exceptions: tuple[AzurePodIdentityException, ...] = ()
    """Of its namespace."""
    bindings: tuple[AzureIdentityBinding, ...] = ()
    """Of all namespaces, as are the identities."""
    identities: tuple[AzureIdentity, ...] = ()
    assigned: tuple[AzureAssignedIdentity, ...] = ()
    """Those that name the pod."""
    node: Node | Unread | None = None
    nmi: NmiThere | Unread = field(default_factory=NmiThere)
    events: tuple[Event, ...] | Unread = ()
    """NMI's and MIC's about the pod, the latest first."""
    decided: tuple[Decided, ...] | Unread = ()
    """What NMI's log says of the pod, the latest first."""
    azure: HostIdentities | AzureError | None = None
    """What is on the node's VM or scale set; None where Azure was not asked."""
    account: Account | None = None
    """None where nobody looked: without a federated identity it plays no part."""
