"""The document that `podidctl top -o json` prints: one sample of all nodes. Pure."""

import msgspec

from podidentity.report import ReportModel


class NodeSample(ReportModel, frozen=True):
    """One NMI. A number is null if it is not known: `problem` states why for all of them, and without a problem NMI's
    version does not report it, or no two reads are comparable.
    """

    node: str
    pod: str
    """Namespace and name of NMI's pod."""
    problem: str = ""
    """Why NMI's metrics could not be read; empty if they could."""
    pods: int | None = None
    """Addresses of pods that NMI knows."""
    requests_per_second: float | None = None
    refusals_per_second: float | None = None
    refusals: dict[str, int] = msgspec.field(default_factory=dict)
    """Since the start of NMI, by reason, without zeros."""
    imds_calls_per_second: float | None = None
    imds_calls: int | None = None
    """Since the start of NMI."""
    tokens: int | None = None
    """Cached tokens."""
    oldest_token_seconds: float | None = None
    """Age of the oldest token in use; 0 without one."""
    next_expiry_seconds: float | None = None
    """Time to the first expiry of a token in use; null also without one."""


class Sample(ReportModel, frozen=True):
    """The document."""

    time: str
    """UTC, ISO 8601."""
    interval_seconds: float
    """The time between the two reads of each NMI."""
    nodes: list[NodeSample]
