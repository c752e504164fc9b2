"""The installed programs of the Go implementation: checks of their flags and helm values for this version. Pure.

The programs' own parsers read the flags, so that this module does not repeat their rules.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import mic.startup.settings
import nmi.settings
from podidctl.facts.settings import reject_help
from podidctl.facts.workloads import DAEMON_SETS, DEPLOYMENTS, WorkloadObject
from podidctl.migration.differences import Difference, fix, no_action, review
from podidentity.flags import UsageError

KINDS_OF_PROGRAMS: Final = {"nmi": DAEMON_SETS, "mic": DEPLOYMENTS}
AnySettings = nmi.settings.NmiSettings | mic.startup.settings.MicSettings
_VARIABLE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True)
class InstalledProgram:
    """One NMI or MIC in a DaemonSet or Deployment."""

    name: str
    """`nmi` or `mic`."""
    workload: str
    """Kind, namespace and name."""
    namespace: str
    flags: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables with a literal value; values from a field or a Secret are unknown."""

    @property
    def argv(self) -> list[str]:
        """Flags with variables expanded.

        An unknown variable has a valid value: a flag that cannot be read must not hide the others, such as
        --forceNamespaced, without which a plan would grant identities across namespaces.
        """
        return [_VARIABLE.sub(lambda match: self.environ.get(match[1], "unknown"), flag) for flag in self.flags]

    def has(self, flag: str) -> bool:
        """Return whether *flag* is among the flags, with one or two dashes."""
        return any(argument.lstrip("-").partition("=")[0] == flag for argument in self.flags)

    def settings(self) -> AnySettings:
        """Return the settings as this version reads them. Raises UsageError for flags that it rejects."""
        argv = reject_help(self.argv)
        if self.name == "nmi":
            return nmi.settings.parse(argv, self.environ)
        return mic.startup.settings.parse(argv, {"MIC_POD_NAMESPACE": self.namespace, **self.environ})


def installed_programs(objects: Mapping[str, Sequence[WorkloadObject]]) -> list[InstalledProgram]:
    """Return each NMI and MIC that *objects*, by kind, run: by the name of a container's image or its own."""
    return [
        InstalledProgram(
            name=name,
            workload=f"{kind.name} {'/'.join(workload.key)}",
            namespace=workload.metadata.namespace,
            flags=[*container.command[1:], *container.args],
            environ={variable.name: variable.value for variable in container.env if variable.value},
        )
        for name, kind in KINDS_OF_PROGRAMS.items()
        for workload in objects.get(kind.name, ())
        for container in workload.template.spec.containers
        if name in {container.name, container.image.rpartition("/")[2].partition("@")[0].partition(":")[0]}
    ]


def _readable_settings(programs: Iterable[InstalledProgram]) -> Iterator[AnySettings]:
    """Yield the settings of *programs* with readable flags; `check_programs` reports the others."""
    for program in programs:
        with suppress(UsageError):
            yield program.settings()


def mic_settings(programs: Iterable[InstalledProgram]) -> mic.startup.settings.MicSettings | None:
    """Return the installed MIC's settings as this version reads them; None if there is none or they cannot be read."""
    mics = [program for program in programs if program.name == "mic"]
    every = _readable_settings(mics[:1])
    return next((settings for settings in every if isinstance(settings, mic.startup.settings.MicSettings)), None)


def is_namespaced(programs: Iterable[InstalledProgram]) -> bool:
    """Return whether one of them restricts identities to their namespaces. Unreadable flags are ignored."""
    return any(settings.force_namespaced for settings in _readable_settings(programs))


def check_programs(programs: Sequence[InstalledProgram]) -> list[Difference]:
    """Return the differences for the installed programs."""
    differences: list[Difference] = []
    namespaced: dict[str, bool] = {}
    mics = [installed.namespace for installed in programs if installed.name == "mic"]
    for program in programs:
        try:
            settings = program.settings()
        except UsageError as error:
            differences.append(
                fix(
                    program.workload,
                    f"this version's {program.name} does not start with its flags: {error}",
                    "remove it, or correct it",
                )
            )
            continue
        namespaced[program.name.upper()] = settings.force_namespaced
        if isinstance(settings, nmi.settings.NmiSettings):
            differences += _nmi_differences(program, settings, mics)
        else:
            differences += _mic_differences(program, settings)
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


def _nmi_differences(
    program: InstalledProgram, settings: nmi.settings.NmiSettings, mics: Sequence[str]
) -> Iterator[Difference]:
    about = program.workload
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


def _mic_differences(program: InstalledProgram, settings: mic.startup.settings.MicSettings) -> Iterator[Difference]:
    # Only the operator's own limit counts: the Go implementation's default was lower than the one here.
    usual = mic.startup.settings.MicSettings(namespace="n").writes_per_second
    if program.has("clientQps") and settings.writes_per_second < usual:
        yield review(
            program.workload,
            f"--clientQps={settings.writes_per_second:g} limits MIC's writes per second; the default is 50 here and 5 "
            "in the Go implementation",
            "remove it unless the API server needs it (chart value mic.clientQps)",
        )
    if program.has("leader-election-instance"):
        yield no_action(
            program.workload,
            "--leader-election-instance gives both replicas the same name; this version adds a suffix that makes each "
            "unique",
            "nothing",
        )


REPOSITORY: Final = re.compile(r"[a-z0-9][a-z0-9.:_/-]*[a-z0-9]")
THEIR_REPOSITORY: Final = re.compile(r"mcr[.](microsoft[.]com|azk8s[.]cn)/|aad-pod-identity$")
THEIR_TAG: Final = re.compile(r"v1[.][0-8]([.]|$)")
"""The rules of the chart (templates/_names.tpl). The repository aad-pod-identity was its default."""
_OUR_IMAGES: Final = "set it to the registry and path to which you pushed this project's images"
_REMOVED_VALUES: Final = {
    "rbac.pspEnabled": "Kubernetes has no PodSecurityPolicies since 1.25",
    "installCRDs": "the definitions are in the chart's crds directory, and helm installs them",
}


def check_values(values: Mapping[str, Any]) -> list[Difference]:
    """Return the differences for the values of a release of the Go implementation's chart."""
    differences = [*_image_differences(values)]
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


def _image_differences(values: Mapping[str, Any]) -> Iterator[Difference]:
    repository = _value(values, "image.repository")
    if repository is None:
        yield fix("value image.repository", "is missing, and the chart has no default", _OUR_IMAGES)
    elif THEIR_REPOSITORY.match(str(repository)):
        what = f"is {repository!r}, where this project's images are not, and the chart refuses it"
        yield fix("value image.repository", what, _OUR_IMAGES)
    elif not REPOSITORY.fullmatch(str(repository)):
        yield fix("value image.repository", f"is {repository!r}, no registry and path in lower case", _OUR_IMAGES)
    for path in ("mic.tag", "nmi.tag"):
        if THEIR_TAG.match(tag := str(_value(values, path))):
            yield fix(f"value {path}", f"is {tag!r}, which names an image of the Go implementation", "remove it")
    for program in ("mic", "nmi"):
        if (image := _value(values, f"{program}.image")) not in (None, program):
            yield review(f"value {program}.image", f"is {image!r}; this project's image is {program}", "remove it")


def _value(values: Mapping[str, Any], path: str) -> Any:
    """Return the value at *path*; None also for an empty text, which the chart treats as the default."""
    value: Any = values
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return None if value == "" else value
