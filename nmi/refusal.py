"""Why a request is refused: values, not exceptions. `nmi.server.responses` gives each reason its status code."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Closed set: it is a metric label, so nothing a pod sends may ever become a member."""

    METHOD_NOT_ALLOWED = "method_not_allowed"
    FORWARDED = "forwarded"
    METADATA_HEADER_MISSING = "metadata_header_missing"
    BAD_PARAMETERS = "bad_parameters"
    DISGUISED_PATH = "disguised_path"
    UNKNOWN_PATH = "unknown_path"
    BLOCKED_PATH = "blocked_path"
    NOT_REDIRECTED = "not_redirected"
    """A pod came straight to the port, which --require-redirected forbids."""
    NOT_FROM_HOST = "not_from_host"
    """The host token endpoint was asked by something else than a process on the node's own loopback."""
    UNKNOWN_ADDRESS = "unknown_address"
    SUSPENDED = "suspended"
    """The address may no longer be the pod's: its containers have terminated, or its sandbox is not there."""
    NOTHING_ASSIGNED = "nothing_assigned"
    """The pod has neither the label nor an assigned identity: nothing can come."""
    STILL_ASSIGNING = "still_assigning"
    """The hold ended while the identity was still on its way."""
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
    """What bounds what peers may use, each counted where it bites. Closed set: it is a metric label.

    Those of the lane (`_native.lane`) have no Refusal: their connections are closed.
    """

    CONNECTIONS = "connections"
    CONNECTIONS_PER_PEER = "connections_per_peer"
    IDLE_EVICTED = "idle_evicted"
    """An idle connection made room for a new one."""
    SLOW_EVICTED = "slow_evicted"
    """So did one whose peer was slow, where no idle one was left."""
    MEMORY_NARROWED = "memory_narrowed"
    """Connections hold half of the memory that they may use: one of a pod with more than its share is slowed down."""
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
    """The connection ends with an answer because of what was sent behind its request."""
    ANSWER = "answer"
    """The time for one answer."""
    PARKED = "parked"
    """Requests from addresses that no pod is known at."""
    GOVERNOR_QUEUE = "governor_queue"
    PROXIED_BYTES = "proxied_bytes"
    """The size of an answer of IMDS that is passed through."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused request."""

    reason: Reason
    sentence: str
    """What the pod may read, written on purpose: never another service's raw text (Azure's sentence about a refused
    token only as `azure_error_text` leaves it), never a secret."""
    detail: str = ""
    """What the operator's log says besides: what to do next."""
    retry_after: float | None = None
    """Seconds after which trying again may help, where somebody said so."""
    limit: Limit | None = None
    """The limit that bit, if one did."""
    identity: str = ""
    """The AzureIdentity whose token was not to be had (`namespace/name`), where it got that far: for the log."""
    correlation: str = ""
    """Azure's id of the failed call, where it told one: for the log."""
