"""Messages between a benchmark run and its emulators. The run sends commands and the emulators send `Counts`.

Each message is one line of JSON.
"""

import msgspec


class AddPods(msgspec.Struct, frozen=True, tag="add pods"):
    """Create pods in phase Running with an Assigned identity each on the node, with consecutive addresses."""

    count: int


class SetImds(msgspec.Struct, frozen=True, tag="imds"):
    """Change the responses of IMDS."""

    delay_ms: float
    """The delay of each response, in milliseconds."""
    token_seconds: float
    """The lifetime of its tokens, in seconds. IMDS returns the same token for the first half of its lifetime."""


class Churn(msgspec.Struct, frozen=True, tag="churn"):
    """Write objects without a change that is relevant to NMI, while other commands run. End an earlier churn first."""

    pod_events_per_second: float
    """Writes of pods' statuses."""
    assigned_events_per_second: float
    """Writes of annotations of AzureAssignedIdentities."""
    seconds: float


class Relist(msgspec.Struct, frozen=True, tag="relist"):
    """End all watches and delete the history: the API server refuses to resume a watch (410); clients list again."""


class GetCounts(msgspec.Struct, frozen=True, tag="tell"):
    """Request the counts, and change nothing."""


Command = AddPods | SetImds | Churn | Relist | GetCounts


class Counts(msgspec.Struct, frozen=True):
    """The response to a command, sent when the command is complete. For `Churn`, it is sent when the writes start."""

    imds_port: int
    pods: int
    imds_calls: int
    """Token requests that IMDS has received, with any response."""
    lists: int
    """Lists of all pods that clients have started."""
    watches: int
    """Watches that are open now."""
    events: int
    """Writes that churns have made."""
    churning: bool


def line(message: Command | Counts) -> bytes:
    """Return the message as one line of JSON."""
    return msgspec.json.encode(message) + b"\n"
