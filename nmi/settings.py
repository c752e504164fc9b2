"""All settings of NMI as one frozen value. `parse` reads a command line: a function of its arguments only."""

from collections.abc import Mapping, Sequence
from typing import Final

from nmi.setting_rules import check
from nmi.setting_table import ANY_ADDRESS, LOOPBACK, SettingTable
from podidentity.daemon_settings import user_agent
from podidentity.given_settings import namespaced_by, read_environment, read_flags

FORMER_FLAGS: Final[Mapping[str, str]] = {
    "max-connections": "NMI has as many connections as the container's memory limit allows, at most 8192",
    "max-connection-bytes": "connections may use a quarter of the container's memory limit",
    "max-header-fields": "a request has at most 64 header fields",
    "max-target-bytes": "path and query of a request have at most 2048 bytes",
    "max-body-bytes": "the body of a request has at most 16384 bytes",
    "first-byte-timeout": "a new connection may stay silent for 10 s",
    "head-timeout": "a request must be complete 10 s after its first byte",
    "idle-timeout": "a kept-alive connection may stay silent for 120 s between two requests",
    "write-timeout": "a peer must take a response within 30 s",
}
"""Flags without effect that command lines may still have, each with what NMI does instead."""


class NmiSettings(SettingTable, frozen=True, kw_only=True):
    """The settings. Construction checks them: raises UsageError with one line that states the fix."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def redirect_destination(self) -> tuple[str, int]:
        """The destination of a rule with the target `loopback`: an address that can be connected to, and the port of
        the token server."""
        return (LOOPBACK if self.listen_address == ANY_ADDRESS else self.listen_address, self.listen_port)

    @property
    def user_agent(self) -> str:
        """The User-Agent of all requests that NMI sends."""
        return user_agent("aad-pod-identity-nmi", self.custom_user_agent)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> NmiSettings:
    """Return the settings from *argv* (without the program's name) and *environ*: flag, then environment, then default.

    FORCENAMESPACED=true overrides the flag, as in the Go implementation. Raises UsageError with one line; SystemExit(0)
    after printing --help.
    """
    given = read_flags(
        NmiSettings,
        argv,
        prog="nmi",
        description="Serves Azure access tokens to the pods of this node that may have them.",
        former_flags=FORMER_FLAGS,
    )
    values = {"node_name": "", **read_environment(NmiSettings, environ), **given}
    values["force_namespaced"] = given.get("force_namespaced", False) or namespaced_by(environ)
    return NmiSettings(**values)
