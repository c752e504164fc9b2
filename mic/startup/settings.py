"""Settings of MIC as one frozen value. `parse` reads a command line and depends only on its arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mic.startup.setting_rules import check
from mic.startup.setting_table import SettingTable
from podidentity.flags import UsageError
from podidentity.given_settings import namespaced_by, read_environment, read_flags

BURST_SECONDS: Final = 40.0
"""Seconds of unused writes that may start immediately by default. Each object gets its last write, the status Assigned,
after its host's operation on Azure. At 50 writes per second, the objects of 2,000 pods that start after an idle time
are therefore written without waiting for the rate. With 30 s the last ones would wait for 10 s."""

CLOUD_VARIABLES: Final = (
    "CLOUD",
    "TENANT_ID",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "SUBSCRIPTION_ID",
    "RESOURCE_GROUP",
    "VM_TYPE",
    "USE_MSI",
    "USER_ASSIGNED_MSI_CLIENT_ID",
)
"""The chart sets those of its values `adminsecret` and `useMSI`, as for the Go implementation. MIC does not use
SUBSCRIPTION_ID, RESOURCE_GROUP and VM_TYPE: the providerID of a node names its host."""
DESCRIPTION: Final = "Attaches the Azure identities that pods are bound to to their VMs."


class MicSettings(SettingTable, frozen=True, kw_only=True):
    """The settings. The constructor raises UsageError with one line that states what to change."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def writes_at_once(self) -> float:
        """Return the writes that may start immediately after an idle time."""
        return self.burst_writes or BURST_SECONDS * self.writes_per_second


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> MicSettings:
    """Return the settings in *argv* (without the program's name) and *environ*: flag, then environment, then default.

    FORCENAMESPACED=true overrides the flag, as in the Go implementation. Raise UsageError in one line with all wrong
    flags and variables, and SystemExit(0) after printing --help.
    """
    problems: list[str] = []
    given: dict[str, Any] = {}
    forced = False
    try:
        given = read_flags(MicSettings, argv, prog="mic", description=DESCRIPTION)
    except UsageError as wrong:
        problems.append(str(wrong))
        given = dict(wrong.usable)  # so that the rules report no fault of a flag that is given
    try:
        forced = namespaced_by(environ)
    except UsageError as wrong:
        problems.append(str(wrong))
    cloud = {name: environ[name] for name in CLOUD_VARIABLES if name in environ}
    values = {"namespace": "", "environment": cloud, **read_environment(MicSettings, environ), **given}
    values["force_namespaced"] = given.get("force_namespaced", False) or forced
    try:
        made = MicSettings(**values)
    except UsageError as wrong:
        problems.append(str(wrong))
    if problems:
        raise UsageError("; ".join(problems))
    return made
