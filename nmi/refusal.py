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
    UNKNOWN_ADDRESS = "unknown_address"
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused request."""

    reason: Reason
    sentence: str
    """What the pod may read, written on purpose: never another service's raw text, never a secret."""
    detail: str = ""
    """What the operator's log says besides: what to do next."""
    retry_after: float | None = None
    """Seconds after which trying again may help, where somebody said so."""
