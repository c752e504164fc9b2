"""The flags that NMI and MIC both have with the same meaning.

A program's table gives each its default, and its place in `--help`.
"""

from pathlib import Path
from typing import Annotated, TypeAlias

from podidentity.settings import PORT, GoSetting, Setting
from podidentity.telemetry import logs
from podidentity.version import VERSION

ForceNamespaced: TypeAlias = Annotated[bool, GoSetting("forceNamespaced")]
"""Identity, binding and pod must be in one namespace. `FORCENAMESPACED=true` in the environment has the same effect."""
Kubeconfig: TypeAlias = Annotated[str, GoSetting("kubeconfig", env=("KUBECONFIG",))]
"""Path of a kubeconfig. Without the flag the value of `KUBECONFIG` counts; empty means the service account of this
pod."""
CaBundle: TypeAlias = Annotated[Path | None, Setting("ca-bundle")]
"""File with PEM certificates of private authorities, which are trusted for Azure in addition to the image's. It is read
again when it changes."""
CustomUserAgent: TypeAlias = Annotated[str, GoSetting("custom-user-agent")]
"""Added to the User-Agent sent to Azure; printable ASCII, at most 200 characters."""
ProbePort: TypeAlias = Annotated[int, GoSetting("http-probe-port", PORT)]
"""/healthz and /readyz on every address, /debug/state on loopback."""
MetricsPort: TypeAlias = Annotated[int, GoSetting("prometheus-port", PORT)]
"""/metrics, on every address."""
Profile: TypeAlias = Annotated[bool, GoSetting("enableProfile")]
"""Serve /debug/profile on the probe port, to processes on loopback only."""
LogFormat: TypeAlias = Annotated[logs.LogFormat, GoSetting("log-format")]
"""Text lines, or one JSON object per line."""
Version: TypeAlias = Annotated[bool, GoSetting("version")]
"""Print the version, and exit."""


def user_agent_demand(custom: str) -> tuple[bool, str]:
    """Return whether requests can have *custom* in their User-Agent, and the sentence for the case that they cannot."""
    return (
        len(custom) <= 200 and custom.isascii() and custom.isprintable(),
        "--custom-user-agent must be printable ASCII of at most 200 characters, since it becomes an HTTP header",
    )


def user_agent(program: str, custom: str) -> str:
    """Return the User-Agent of *program*, with the operator's *custom* part."""
    return f"{program}/{VERSION} {custom}".rstrip()
