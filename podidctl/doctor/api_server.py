"""Checks of the API server: its version, and its clock compared with this machine's. Pure."""

import re
from collections.abc import Iterator

from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import ServerState

OLDEST_MINOR = 16
"""The first Kubernetes 1.x with apiextensions.k8s.io/v1, which the custom resource definitions use."""
SKEW_WARNING_SECONDS = 30.0
SKEW_PROBLEM_SECONDS = 300.0
"""Microsoft Entra ID accepts assertions whose clock is wrong by at most five minutes."""


def check_version(server: ServerState) -> Iterator[Finding]:
    """Check that the server is new enough."""
    match = re.match(r"v1\.(\d+)", server.version)
    if match is not None and int(match[1]) < OLDEST_MINOR:
        says = f"Kubernetes {server.version} does not support apiextensions.k8s.io/v1"
        yield make_finding("API server", Level.PROBLEM, says, f"upgrade to 1.{OLDEST_MINOR} or newer")
    elif server.version:
        yield make_finding("API server", Level.OK, f"Kubernetes {server.version}")
    else:
        says = "the API server did not report its version at /version"
        yield make_finding(
            "API server",
            Level.UNKNOWN,
            says,
            "see its response, or run this command with permission to get /version: kubectl get --raw /version",
        )


def check_clocks(server: ServerState) -> Iterator[Finding]:
    """Compare this machine's clock with the API server's."""
    if server.ahead_seconds is None:
        yield make_finding(
            "clocks", Level.UNKNOWN, "the API server's response has no date; a proxy in front of it may have removed it"
        )
        return
    off = max(0.0, abs(server.ahead_seconds) - server.uncertain_seconds)
    if off < SKEW_WARNING_SECONDS:
        yield make_finding("clocks", Level.OK, "this machine's clock and the API server's agree")
        return
    level = Level.PROBLEM if off >= SKEW_PROBLEM_SECONDS else Level.WARNING
    which = "ahead of" if server.ahead_seconds > 0 else "behind"
    then = "check NTP on both machines: tokens and certificates are rejected before and after their validity"
    yield make_finding("clocks", level, f"the API server's clock is {off:.0f} s {which} this machine's", then)
