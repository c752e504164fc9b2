"""Checks on the API server itself: its version, and its clock against ours. Pure."""

import re
from collections.abc import Iterator

from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import ServerState

OLDEST_MINOR = 16
"""The first Kubernetes 1.x with apiextensions.k8s.io/v1, in which our definitions are written."""
SKEW_WARNING_SECONDS = 30.0
SKEW_PROBLEM_SECONDS = 300.0
"""Azure AD takes assertions of a clock that is wrong by five minutes at most."""


def check_version(server: ServerState) -> Iterator[Finding]:
    """Whether the server knows what we need."""
    match = re.match(r"v1\.(\d+)", server.version)
    if match is not None and int(match[1]) < OLDEST_MINOR:
        says = f"Kubernetes {server.version} does not know apiextensions.k8s.io/v1"
        yield make_finding("API server", Level.PROBLEM, says, f"upgrade to 1.{OLDEST_MINOR} or newer")
    else:
        yield make_finding(
            "API server", Level.OK, f"Kubernetes {server.version or 'of a version that it does not tell'}"
        )


def check_clocks(server: ServerState) -> Iterator[Finding]:
    """Whether this machine and the API server agree about the time."""
    if server.ahead_seconds is None:
        yield make_finding(
            "clocks", Level.UNKNOWN, "the API server's answer has no date, as a proxy before it may have it"
        )
        return
    off = max(0.0, abs(server.ahead_seconds) - server.uncertain_seconds)
    if off < SKEW_WARNING_SECONDS:
        yield make_finding("clocks", Level.OK, "this machine's clock and the API server's agree")
        return
    level = Level.PROBLEM if off >= SKEW_PROBLEM_SECONDS else Level.WARNING
    which = "ahead of" if server.ahead_seconds > 0 else "behind"
    then = "see NTP on both: tokens and certificates are refused before their time and after"
    yield make_finding("clocks", level, f"the API server's clock is {off:.0f} s {which} this machine's", then)
