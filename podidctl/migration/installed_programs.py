"""The installed NMI and MIC of the Go implementation: checks of their flags and helm values for this version. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import mic.startup.settings
import nmi.settings
from podidctl.facts.kinds import Daemon
from podidctl.facts.settings import flags_of, mic_settings, nmi_settings
from podidctl.migration.differences import Difference, fix, no_action, review
from podidentity.flags import UsageError


def check_programs(nmis: Sequence[Daemon], mics: Sequence[Daemon]) -> list[Difference]:
    """Return the differences for the installed programs, each a pod as its DaemonSet or Deployment would create it."""
    differences: list[Difference] = []
    namespaced: dict[str, bool] = {}
    for daemon in nmis:
        about = f"DaemonSet {daemon.name}"
        try:
            settings = nmi_settings(daemon)
        except UsageError as error:
            differences.append(_wrong_flags(about, "nmi", error))
            continue
        namespaced["NMI"] = settings.force_namespaced
        differences += _nmi_differences(about, settings, [daemon.metadata.namespace for daemon in mics])
    for daemon in mics:
        about = f"Deployment {daemon.name}"
        try:
            writer = mic_settings(daemon)
        except UsageError as error:
            differences.append(_wrong_flags(about, "mic", error))
            continue
        namespaced["MIC"] = writer.force_namespaced
        names = {flag.lstrip("-").partition("=")[0] for flag in flags_of(daemon, "mic")}
        differences += _mic_differences(about, writer, names)
    if len(set(namespaced.values())) > 1:
        only = next(name for name, value in namespaced.items() if value)
        differences.append(
            review(
                "--forceNamespaced",
                f"only {only} has it, so the two disagree about the pods that an identity serves",
                "set it for both (chart value forceNamespaced)",
            )
        )
    return differences


def _wrong_flags(about: str, program: str, error: UsageError) -> Difference:
    reason = f"this version's {program} does not start with its flags: {error}"
    return fix(about, reason, "remove it, or correct it")


def _nmi_differences(about: str, settings: nmi.settings.Settings, mics: Sequence[str]) -> Iterator[Difference]:
    if settings.allow_kubenet:
        yield review(
            about,
            "--allow-network-plugin-kubenet is set: on a node with kubenet a pod can use another pod's address and "
            "get its tokens",
            "remove the flag if the cluster has another network plugin; otherwise deny NET_RAW to pods",
        )
    if not settings.metadata_header_required:
        yield review(
            about,
            "--metadata-header-required=false: anyone who can make a server in a pod fetch a URL gets its token",
            "remove the flag; every SDK sends the header",
        )
    if mics and settings.mic_namespace not in mics:
        yield review(
            about,
            f"--MICNamespace is {settings.mic_namespace}, but MIC runs in {', '.join(mics)}: its own token requests "
            "are handled like those of any pod unless an exception covers it",
            f"set --MICNamespace={mics[0]} (chart value nmi.micNamespace)",
        )


def _mic_differences(
    about: str, settings: mic.startup.settings.Settings, flags: Collection[str]
) -> Iterator[Difference]:
    # Only the operator's own limit counts: the Go implementation's default was lower than the one here.
    usual = mic.startup.settings.Settings(namespace="n").writes_per_second
    if "clientQps" in flags and settings.writes_per_second < usual:
        yield review(
            about,
            f"--clientQps={settings.writes_per_second:g} limits MIC's writes per second; the default is 50 here and 5 "
            "in the Go implementation",
            "remove it unless the API server needs it (chart value mic.clientQps)",
        )
    if "leader-election-instance" in flags:
        yield no_action(
            about,
            "--leader-election-instance gives both replicas the same name; this version adds a suffix that makes each "
            "unique",
            "nothing",
        )


_IMAGE_VALUES: Final = ("image.repository", "mic.image", "mic.tag", "nmi.image", "nmi.tag")
_REMOVED_VALUES: Final = {
    "rbac.pspEnabled": "Kubernetes has no PodSecurityPolicies since 1.25",
    "installCRDs": "the definitions are in the chart's crds directory, and helm installs them",
}


def check_values(values: Mapping[str, Any]) -> list[Difference]:
    """Return the differences for the values of a release of the Go implementation's chart."""
    differences = [
        fix(
            f"value {path}",
            f"is {_value(values, path)!r}, which names an image of the Go implementation",
            "remove it, or set it to this version's image",
        )
        for path in _IMAGE_VALUES
        if _value(values, path) is not None
    ]
    differences += [
        review(f"value {path}", reason, "remove it") for path, reason in _REMOVED_VALUES.items() if _value(values, path)
    ]
    if isinstance(_value(values, "azureIdentities"), list):
        reason = "is a list, as in old charts; it must be a map by the identities' names"
        differences.append(fix("value azureIdentities", reason, "write each entry under its name"))
    if _value(values, "nmi.allowNetworkPluginKubenet"):
        reason = "on a node with kubenet a pod can use another pod's address and get its tokens"
        do = "remove it if the cluster has another network plugin; otherwise deny NET_RAW to pods"
        differences.append(review("value nmi.allowNetworkPluginKubenet", reason, do))
    if (rate := _value(values, "mic.clientQps")) is not None:
        reason = f"is {rate}; the default is 50 writes per second here and 5 in the Go implementation"
        differences.append(review("value mic.clientQps", reason, "remove it unless the API server needs it"))
    return differences


def _value(values: Mapping[str, Any], path: str) -> Any:
    """Return the value at *path*; None also for an empty text, which the chart treats as the default."""
    value: Any = values
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return None if value == "" else value
