"""Metrics of the handover."""

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter

from nmi.handover.protocol import Role


class HandoverOutcome(StrEnum):
    """How one handover ended, for this NMI."""

    COMPLETED = "completed"
    FAILED = "failed"
    """The predecessor continued to serve."""
    RETURNED = "returned"
    """The successor ended or stopped afterwards, and the predecessor serves again."""


class HandoverMetrics:
    """Handovers by role and outcome, from the start on with each label."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter(
            "aadpodidentity_nmi_handovers",
            "Handovers from one NMI of the node to the next, by this NMI's role in them.",
            ("role", "outcome"),
            registry=registry,
        )
        for role in Role:
            for outcome in HandoverOutcome:
                self._total.labels(role.name.lower(), outcome)

    def record(self, role: Role, outcome: HandoverOutcome) -> None:
        self._total.labels(role.name.lower(), outcome).inc()
