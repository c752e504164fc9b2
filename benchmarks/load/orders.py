"""What is said between a run and its world: one line of JSON there, one back. Both sides read and write these types."""

import msgspec


class AddPods(msgspec.Struct, frozen=True, tag="add pods"):
    """Put pods on the node, each Running at the address after the last one's, its identity Assigned."""

    count: int


class SetImds(msgspec.Struct, frozen=True, tag="imds"):
    """From now on."""

    delay_ms: float
    """Before each answer."""
    token_seconds: float
    """Lifetime of the tokens it makes; one is handed out again until half of it is over."""


class Churn(msgspec.Struct, frozen=True, tag="churn"):
    """Write what changes nothing for NMI, while other orders are taken. A churn that is under way ends first."""

    pod_events_per_second: float
    """Heartbeats in pods' statuses."""
    assigned_events_per_second: float
    """Annotations of AzureAssignedIdentities."""
    seconds: float


class Relist(msgspec.Struct, frozen=True, tag="relist"):
    """End every watch and forget history: resuming is answered 410, and everything has to be listed anew."""


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """Nothing but an answer."""


Order = AddPods | SetImds | Churn | Relist | Tell


class Told(msgspec.Struct, frozen=True):
    """The answer to every order, given when it has been carried out; a churn's when it has begun."""

    imds_port: int
    pods: int
    imds_calls: int
    """Token requests so far, whatever their answer."""
    lists: int
    """Complete lists of pods that were begun so far."""
    watches: int
    """In progress."""
    events: int
    """Writes of churns so far."""
    churning: bool


def line(message: Order | Told) -> bytes:
    return msgspec.json.encode(message) + b"\n"
