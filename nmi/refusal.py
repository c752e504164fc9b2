"""Reasons for refused requests: values, not exceptions. `nmi.server.responses` maps each reason to a status code."""

from enum import StrEnum
from typing import Final

from typing_extensions import override

from podidentity.compared_struct import ComparedStruct


class Reason(StrEnum):
    """A closed set, because it is a metric label: data from a pod never becomes a member."""

    METHOD_NOT_ALLOWED = "method_not_allowed"
    FORWARDED = "forwarded"
    METADATA_HEADER_MISSING = "metadata_header_missing"
    BAD_PARAMETERS = "bad_parameters"
    DISGUISED_PATH = "disguised_path"
    UNKNOWN_PATH = "unknown_path"
    BLOCKED_PATH = "blocked_path"
    NOT_REDIRECTED = "not_redirected"
    """A pod connected directly to the port, which --require-redirected forbids."""
    NOT_FROM_HOST = "not_from_host"
    """A request to the host token endpoint that is not from a process on the node's own loopback."""
    LOOPED = "looped"
    """NMI's own request to IMDS, which a redirect returned to NMI."""
    UNKNOWN_ADDRESS = "unknown_address"
    SUSPENDED = "suspended"
    """The address may no longer be the pod's: it is suspended, all containers terminated, or its sandbox is down."""
    NOTHING_ASSIGNED = "nothing_assigned"
    """The pod has neither the label nor an assigned identity, so waiting cannot help."""
    STILL_ASSIGNING = "still_assigning"
    """The hold ended while the identity was being assigned."""
    NO_MATCHING_IDENTITY = "no_matching_identity"
    UNKNOWN_OBJECT_ID = "unknown_object_id"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_THROTTLED = "upstream_throttled"
    POLICY = "policy"
    BAD_SYNTAX = "bad_syntax"
    HEAD_TOO_LARGE = "head_too_large"
    BODY_TOO_LARGE = "body_too_large"
    TIMED_OUT = "timed_out"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"


class Limit(StrEnum):
    """Limits of what peers may use, counted when they take effect. A closed set, because it is a metric label.

    The limits of the lane (`_native.lane`) have no Refusal: their connections are closed.
    """

    CONNECTIONS = "connections"
    CONNECTIONS_PER_PEER = "connections_per_peer"
    IDLE_EVICTED = "idle_evicted"
    """An idle connection was closed to make room for a new one."""
    SLOW_EVICTED = "slow_evicted"
    """A connection with a slow peer was closed to make room, because there was no idle one."""
    MEMORY_NARROWED = "memory_narrowed"
    """Connections hold half of their memory limit: a connection of a pod with more than its share is slowed down."""
    MEMORY_REFUSED = "memory_refused"
    """They hold three quarters of it: a pod with more than its share got no further connection."""
    MEMORY_EVICTED = "memory_evicted"
    """They hold all of it: the pod that holds most lost a connection."""
    FIRST_BYTE = "first_byte"
    HEAD = "head"
    """The time for a whole request."""
    IDLE = "idle"
    WRITE = "write"
    HEAD_BYTES = "head_bytes"
    HEADER_FIELDS = "header_fields"
    TARGET_BYTES = "target_bytes"
    BODY_BYTES = "body_bytes"
    PARAMETERS = "parameters"
    PIPELINE = "pipeline"
    """The connection ends with a response because of the bytes that follow its request."""
    ANSWER = "answer"
    """The time for one response."""
    PARKED = "parked"
    """Requests from addresses without a pod record."""
    GOVERNOR_QUEUE = "governor_queue"
    PROXIED_BYTES = "proxied_bytes"
    """The size of a response of IMDS that is passed through."""


class Refusal(ComparedStruct, frozen=True, eq=False):
    """One refused request."""

    reason: Reason
    sentence: str
    """The text for the pod, written for this purpose: no raw text of another service (Azure's sentence about a refused
    token only as filtered by `azure_error_text`), and no secret."""
    detail: str = ""
    """The additional text for the operator's log: the next action."""
    retry_after: float | None = None
    """Seconds after which a retry may help, if known."""
    limit: Limit | None = None
    """The limit that caused the refusal, if any."""
    identity: str = ""
    """The AzureIdentity whose token was requested (`namespace/name`), if known: for the log."""
    correlation: str = ""
    """Azure's id of the failed call, if known: for the log."""
    generation: int | None = None
    """The pod record's generation at the decision, if the same request gets this refusal until the next one."""
    cause: str = ""
    """A text that is equal for each repeat and differs between causes. Empty: the sentence is such a text."""
    unknown_seconds: float = 0.0
    """How long the same address gets this refusal unless a pod gets it, because a lookup has just failed."""

    @property
    @override
    def compared(self) -> tuple[object, ...]:
        """The values of the way to refuse. How long it stays valid is not among them."""
        named = (self.identity, self.correlation)
        return (self.reason, self.sentence, self.detail, self.retry_after, self.limit, *named)


UNKNOWN_ADDRESS: Final = Refusal(
    Reason.UNKNOWN_ADDRESS,
    "No pod is known at this address.",
    "find the owner of this address: a host-network or finished pod, a process of the node, or a pod not reported yet",
)

UNSUPPORTED_TYPE: Final = Refusal(
    Reason.POLICY,
    "The type of this pod's AzureIdentity is not served by this node.",
    "types are 0 (user-assigned identity), 1 (secret), 2 (certificate) and 3 (federated): correct spec.type of the "
    "AzureIdentity",
)

NO_ROOM_TO_WAIT: Final = Refusal(
    Reason.OVERLOADED,
    "Too many requests wait for pods that are not known yet; try again.",
    "requests from addresses without a known pod use all memory that they may use (aadpodidentity_nmi_parked): find "
    "the processes that send them, or why NMI receives new pods late",
    retry_after=1.0,
    limit=Limit.PARKED,
)
