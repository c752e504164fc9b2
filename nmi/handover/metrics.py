"""Metrics of the handover."""

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter

from nmi.handover.protocol import Role


class HandoverOutcome(StrEnum):
    """The result of one handover, for this NMI."""

    COMPLETED = "completed"
    FAILED = "failed"
    """The predecessor continued to serve."""
    RETURNED = "returned"
    """The successor ended or stopped afterwards, and the predecessor serves again."""


class HandoverMetrics:
    """Handovers by role and outcome, and received tokens, from the start on with each label."""

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

        self._tokens = Counter(
            "aadpodidentity_nmi_handover_tokens",
            "Tokens that the former NMI of the node passed to this one, by whether this one accepted them.",
            ("result",),
            registry=registry,
        )
        for result in ("received", "refused"):
            self._tokens.labels(result)

    def record_tokens(self, received: int, refused: int) -> None:
        self._tokens.labels("received").inc(received)
        self._tokens.labels("refused").inc(refused)

    def record(self, role: Role, outcome: HandoverOutcome) -> None:
        self._total.labels(role.name.lower(), outcome).inc()
