"""Connection to the cluster that a command reads, from MIC's settings and podidctl's own options."""

import argparse
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from msgspec.structs import asdict

from mic.startup.settings import MicSettings, parse
from podidentity.exits import StartError, first_error
from podidentity.flags import UsageError, duration_text, go_duration
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError, TimedOut, api_error_advice
from podidentity.version import VERSION

KUBECONFIG_HELP = "Path of a kubeconfig. Default: KUBECONFIG, the pod's service account, or kubectl's default file."
REQUEST_TIMEOUT = "10s"
NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII)
"""Names that pods and namespaces can have. An empty name would request the list of all objects."""


class ClusterSettings(MicSettings, frozen=True, kw_only=True):
    """Settings of a MIC, and what only podidctl sets."""

    context: str = ""
    """The kubeconfig's context; empty: its current one."""
    request_seconds: float
    """Time limit of each request to the API server."""


@dataclass(frozen=True, slots=True)
class CliContext:
    """Environment of the process, as `cli` passes it. No other module reads the environment."""

    environ: Mapping[str, str]
    home: Callable[[], Path]
    """Return the user's home directory."""

    def settings(
        self, kube_context: str = "", request_timeout: str = REQUEST_TIMEOUT, **flags: object
    ) -> ClusterSettings:
        """Return the settings of a MIC with these *flags*: the cluster's address and the Azure credentials. None or an
        empty value omits a flag. Raises typer.BadParameter.

        If neither they nor the environment name a kubeconfig, kubectl's default file in the home directory is used, in
        a pod only with *kube_context*.
        """
        set_flags = {name.replace("_", "-"): value for name, value in flags.items() if value not in (None, "", False)}
        argv = [f"--{name}={value}" for name, value in set_flags.items()]
        try:
            # With --plan, because MIC requires the namespace of its pod otherwise.
            given = parse(["--plan", *argv], self.environ)
            usual = self.home() / ".kube" / "config"
            if not given.kubeconfig and (kube_context or not given.service_host) and _is_file(usual):
                given = parse(["--plan", f"--kubeconfig={usual}", *argv], self.environ)
        except UsageError as wrong:
            raise typer.BadParameter(str(wrong)) from wrong
        seconds = _request_seconds(request_timeout)
        return ClusterSettings(**asdict(given), context=kube_context, request_seconds=seconds)


def _request_seconds(text: str) -> float:
    """Return the time limit in kubectl's syntax: a duration, or whole seconds; 0 is no limit. Raises
    typer.BadParameter.
    """
    try:
        seconds = float(text) if text.isascii() and text.isdigit() else go_duration(text)
    except argparse.ArgumentTypeError as error:
        raise typer.BadParameter(f"--request-timeout: {error}") from error
    if seconds < 0:
        raise typer.BadParameter(f"--request-timeout is {text}; write a duration like 30s, or 0 for no limit")
    return seconds or math.inf


def home_directory() -> Path:
    """Return the user's home directory. A user without one, as in a container, has the root directory."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no permission to search the directory
        return False


@asynccontextmanager
async def connect(settings: ClusterSettings) -> AsyncIterator[Client]:
    """Connect to the API server of *settings*. An AccessError or ApiError in the context, alone or from a TaskGroup,
    becomes a StartError.
    """
    try:
        cluster = await access.find(settings.kubeconfig, settings.cluster_environment, settings.context)
        agent = f"podidctl/{VERSION}"
        async with Client(cluster, user_agent=agent, timeout_seconds=settings.request_seconds) as client:
            yield client
    except (AccessError, ApiError) as error:
        raise StartError(_advice(error)) from error
    except ExceptionGroup as group:
        # Another exception is a fault of the program, which a line about the cluster would hide.
        if group.split((AccessError, ApiError, StartError))[1] is not None:
            raise
        raise StartError(_advice(first_error(group))) from group


def _advice(error: Exception) -> str:
    match error:
        case TimedOut():
            # A limit that is printed as 0 would mean none.
            longer = duration_text(max(3 * error.seconds, 0.001))
            return (
                f"{error}: wait longer with --request-timeout={longer}, or check --kubeconfig and that the API server "
                "runs"
            )
        case ApiError():
            return api_error_advice(error)
        case _:
            return str(error)


def check_namespace(name: str) -> None:
    """Raise typer.BadParameter if no namespace can have this *name*."""
    if not NAME_PATTERN.fullmatch(name):
        raise typer.BadParameter(f"-n {name!a} is not a namespace name; see kubectl get namespaces")


def parse_pod_name(name: str, namespace: str, usual: str, what: str = "a pod name") -> tuple[str, str]:
    """Return namespace and name from `NS/NAME`, or from `NAME` with *namespace*, else *usual*. *what*: for the error.
    Raises typer.BadParameter.
    """
    before, slash, after = name.rpartition("/")
    if not all(map(NAME_PATTERN.fullmatch, (before, after) if slash else (after,))):
        raise typer.BadParameter(f"{name!a} is not {what}; write NAMESPACE/NAME, or NAME with -n NAMESPACE")
    if namespace:
        check_namespace(namespace)
    if not slash:
        return namespace or usual, name
    if namespace not in {"", before}:
        raise typer.BadParameter(f"{name!r} and -n {namespace} name two namespaces; omit one of them")
    return before, after
