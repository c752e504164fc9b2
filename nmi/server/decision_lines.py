"""The parts of the decision log's lines and reports on which podidctl depends. Without `_native`, as podidctl is."""

from typing import Final

LOGGER: Final = "nmi.server.decisions"
GRANTED: Final = "granted"
EXEMPT: Final = "exempt"
REFUSED: Final = "refused"
UNANSWERED: Final = "unanswered"
REPORT_AGAIN_SECONDS: Final = 900.0
"""Kubernetes deletes Events after an hour."""
