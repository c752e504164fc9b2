"""Pods and objects that one reconcile pass leaves out because planning for them raised an exception."""

import logging
from typing import Final

from mic.decisions.assignments import Key
from mic.metrics import MicMetrics

log = logging.getLogger(__name__)

FAULT_SECONDS: Final = 30.0
"""Pause before the next pass of a host after one left something out."""


class LeftOutObjects:
    """Objects that one pass left out. `note` is a `steps.OnFault`."""

    def __init__(self, host_key: str, metrics: MicMetrics) -> None:
        self._host_key = host_key
        self._metrics = metrics
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def note(self, about: Key, error: Exception) -> None:
        """Count the object. The log has the first one of the pass, with its traceback."""
        self._metrics.faulted("plan")
        self._count += 1
        if self._count == 1:
            log.error(
                "planning for a pod or an object failed unexpectedly, so it is left out; report this as a bug",
                extra={"resource": "/".join(about), "vm": self._host_key},
                exc_info=error,
            )
