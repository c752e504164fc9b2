"""The protocol between a run and its emulators: one line of JSON per order and per response. Both sides use these
types."""

import msgspec


class AddPods(msgspec.Struct, frozen=True, tag="add pods"):
    """Create pods on the node, each Running at the address after the previous one's, with an Assigned identity."""

    count: int


class SetImds(msgspec.Struct, frozen=True, tag="imds"):
    """From now on."""

    delay_ms: float
    """The delay of each response."""
    token_seconds: float
    """Lifetime of its tokens. A token is returned again until half of it has passed."""


class Churn(msgspec.Struct, frozen=True, tag="churn"):
    """Make writes that change nothing for NMI, concurrently with other orders. A churn in progress ends first."""

    pod_events_per_second: float
    """Heartbeats in pods' statuses."""
    assigned_events_per_second: float
    """Annotations of AzureAssignedIdentities."""
    seconds: float


class Relist(msgspec.Struct, frozen=True, tag="relist"):
    """End each watch and delete the history: the API server refuses to resume with 410, and clients list again."""


class GetCounts(msgspec.Struct, frozen=True, tag="tell"):
    """Request the counts only."""


Command = AddPods | SetImds | Churn | Relist | GetCounts


class Counts(msgspec.Struct, frozen=True):
    """The response to an order, sent when it is complete; for a churn, when it has started."""

    imds_port: int
    pods: int
    imds_calls: int
    """Token requests so far, with any response."""
    lists: int
    """Complete lists of pods that were started so far."""
    watches: int
    """In progress."""
    events: int
    """Writes of churns so far."""
    churning: bool


def line(message: Command | Counts) -> bytes:
    return msgspec.json.encode(message) + b"\n"
