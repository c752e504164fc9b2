"""Log lines for token endpoints that do not respond or fail.

The decision log contains refused requests, but a client that disconnects first receives no refusal. These lines are
therefore about the attempts: what failed, at which endpoint, after which time, and the next action. An endpoint has one
line per minute at most, and the endpoints are IMDS and those that the operator allows, so pods cannot increase the
number of lines.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from podidentity.azure.errors import AzureError, Unreachable
from podidentity.azure.imds import ImdsObserver
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

ENDPOINTS_MAX: Final = 64
"""More than an operator allows; further ones have no line."""


class EndpointFailures:
    """Failed attempts by endpoint."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits: dict[str, LogLimit] = {}

    def record(self, endpoint: str, seconds: float, error: AzureError | None) -> None:
        """Record the end of an attempt that took *seconds*. Refusals and requests to slow down are responses."""
        if type(error) not in {AzureError, Unreachable}:
            return
        limit = self._limits.get(endpoint)
        if limit is None:
            if len(self._limits) >= ENDPOINTS_MAX:
                return
            limit = self._limits[endpoint] = LogLimit(clock=self._clock)
        if not limit.allows():
            return
        log.warning(
            "token endpoint fails; check that this node reaches it: DNS, firewall, proxy (HTTPS_PROXY), certificate "
            "authority (--ca-bundle)",
            extra={"url": endpoint, "seconds": round(seconds, 1), "error": str(error), "count": limit.left_out + 1},
        )

    def with_imds(self, url: str, observe: ImdsObserver) -> ImdsObserver:
        """Return an observer for the ImdsSource of *url* that calls *observe* and records failures."""

        def observed(named: bool, seconds: float, error: AzureError | None) -> None:
            observe(named, seconds, error)
            self.record(url, seconds, error)

        return observed
