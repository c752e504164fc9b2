"""The reference's programs as they are installed: what our own would make of their command lines and helm values. Pure.

Our parsers are asked themselves, so that nothing here has to know what they take.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import mic.startup.settings
import nmi.settings
from podidctl.migration.differences import Difference, DifferenceLevel
from podidentity.flags import UsageError

_VARIABLE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True)
class Program:
    """One NMI or MIC, as a DaemonSet or Deployment describes it."""

    name: str
    """`nmi` or `mic`."""
    workload: str
    """Kind, namespace and name."""
    namespace: str
    flags: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables whose value stands there; what comes from a field or a Secret is not known."""

    @property
    def argv(self) -> list[str]:
        """The flags with variables in the place of their names, and a word for each that is not known."""
        return [_VARIABLE.sub(lambda found: self.environ.get(found[1], "unknown"), flag) for flag in self.flags]

    def says(self, flag: str) -> bool:
        """Whether *flag* is among the flags, with one dash or two."""
        return any(each.lstrip("-").partition("=")[0] == flag for each in self.flags)


def mic_settings(programs: Sequence[Program]) -> mic.startup.settings.Settings | None:
    """What the installed MIC was told, as ours reads it; None where there is none, or ours cannot."""
    for program in programs:
        if program.name == "mic":
            try:
                return _mic(program)
            except UsageError:
                return None
    return None


def is_namespaced(programs: Sequence[Program]) -> bool:
    """Whether one of them keeps identities within their namespaces; one whose flags ours cannot read says nothing."""
    for program in programs:
        try:
            parse = _mic if program.name == "mic" else _nmi
            if parse(program).force_namespaced:
                return True
        except UsageError:
            continue
    return False


def check_programs(programs: Sequence[Program]) -> list[Difference]:
    """What is to be said of the installed programs."""
    found: list[Difference] = []
    namespaced: dict[str, bool] = {}
    mics = [each.namespace for each in programs if each.name == "mic"]
    for program in programs:
        try:
            if program.name == "nmi":
                settings = _nmi(program)
                namespaced["NMI"] = settings.force_namespaced
                found += _nmi_differences(program, settings, mics)
            else:
                told = _mic(program)
                namespaced["MIC"] = told.force_namespaced
                found += _mic_differences(program, told)
        except UsageError as error:
            found.append(
                Difference(
                    DifferenceLevel.FIX,
                    program.workload,
                    f"our {program.name} does not start with its flags: {error}",
                    "take it out, or correct it",
                )
            )
    if len(set(namespaced.values())) > 1:
        only = next(name for name, value in namespaced.items() if value)
        found.append(
            Difference(
                DifferenceLevel.REVIEW,
                "--forceNamespaced",
                f"only {only} has it, so the two disagree about which pods an identity is for",
                "set it for both (chart value forceNamespaced)",
            )
        )
    return found


def _nmi(program: Program) -> nmi.settings.Settings:
    return nmi.settings.parse(program.argv, program.environ)


def _mic(program: Program) -> mic.startup.settings.Settings:
    environ = {"MIC_POD_NAMESPACE": program.namespace, **program.environ}
    return mic.startup.settings.parse(program.argv, environ)


def _nmi_differences(program: Program, settings: nmi.settings.Settings, mics: Sequence[str]) -> Iterator[Difference]:
    about = program.workload
    if settings.allow_kubenet:
        yield Difference(
            DifferenceLevel.REVIEW,
            about,
            "--allow-network-plugin-kubenet is set: on a node with kubenet a pod can take another's address and tokens",
            "take the flag out where the cluster has another network plugin; else forbid NET_RAW to pods",
        )
    if not settings.metadata_header_required:
        yield Difference(
            DifferenceLevel.REVIEW,
            about,
            "--metadata-header-required=false: whoever can make a server in a pod fetch a URL gets its token",
            "take the flag out; every SDK sends the header",
        )
    if mics and settings.mic_namespace not in mics:
        yield Difference(
            DifferenceLevel.REVIEW,
            about,
            f"--MICNamespace is {settings.mic_namespace}, and MIC runs in {', '.join(mics)}: its own requests for "
            "tokens go the way of any pod's unless an exception covers it",
            f"set --MICNamespace={mics[0]} (chart value nmi.micNamespace)",
        )


def _mic_differences(program: Program, settings: mic.startup.settings.Settings) -> Iterator[Difference]:
    if (
        program.says("clientQps")
        and settings.writes_per_second < mic.startup.settings.Settings(namespace="n").writes_per_second
    ):
        yield Difference(
            DifferenceLevel.REVIEW,
            program.workload,
            f"--clientQps={settings.writes_per_second:g} holds MIC to so many writes a second; our default is 50, the "
            "reference's 5",
            "take it out unless the API server needs it (chart value mic.clientQps)",
        )
    if program.says("leader-election-instance"):
        yield Difference(
            DifferenceLevel.NO_ACTION,
            program.workload,
            "--leader-election-instance names both replicas alike; ours add to it what makes each its own",
            "nothing",
        )


_IMAGE_VALUES: Final = ("image.repository", "mic.image", "mic.tag", "nmi.image", "nmi.tag")
_REMOVED_VALUES: Final = {
    "rbac.pspEnabled": "PodSecurityPolicies are gone from Kubernetes since 1.25",
    "installCRDs": "the definitions are in the chart's crds folder, and helm installs them by itself",
}


def check_values(values: Mapping[str, Any]) -> list[Difference]:
    """What is to be said of the values of a release of the reference's chart."""
    found = [
        Difference(
            DifferenceLevel.FIX,
            f"value {path}",
            f"is {_value(values, path)!r}, which names the reference's image",
            "take it out, or set it to ours",
        )
        for path in _IMAGE_VALUES
        if _value(values, path) is not None
    ]
    found += [
        Difference(DifferenceLevel.REVIEW, f"value {path}", why, "take it out")
        for path, why in _REMOVED_VALUES.items()
        if _value(values, path)
    ]
    if isinstance(_value(values, "azureIdentities"), list):
        found.append(
            Difference(
                DifferenceLevel.FIX,
                "value azureIdentities",
                "is a list, as in old charts; it has to be a map by the identities' names",
                "write each entry under its name",
            )
        )
    if _value(values, "nmi.allowNetworkPluginKubenet"):
        found.append(
            Difference(
                DifferenceLevel.REVIEW,
                "value nmi.allowNetworkPluginKubenet",
                "on a node with kubenet a pod can take another's address and tokens",
                "take it out where the cluster has another network plugin; else forbid NET_RAW to pods",
            )
        )
    if _value(values, "mic.clientQps") is not None:
        found.append(
            Difference(
                DifferenceLevel.REVIEW,
                "value mic.clientQps",
                f"is {_value(values, 'mic.clientQps')}; our default is 50 writes a second, the reference's 5",
                "take it out unless the API server needs it",
            )
        )
    return found


def _value(values: Mapping[str, Any], path: str) -> Any:
    """What stands at *path*; None, as for an empty text, which is how the chart says "the default"."""
    found: Any = values
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return None if found == "" else found
