"""Pods of NMI and MIC among those with their labels, and the settings in the flags of these pods. Pure."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import dropwhile, pairwise
from typing import Final, TypeVar

import msgspec

from mic.decisions.policy import Policy
from mic.startup.policy import policy_of
from mic.startup.settings import MicSettings
from mic.startup.settings import parse as parse_mic
from nmi.choices import OperationMode
from nmi.settings import NmiSettings, parse
from podidctl.facts.kinds import Daemon
from podidctl.facts.model import NmiConfiguration, ReadFailure, readable
from podidentity.flags import UsageError
from podidentity.resources import Pod

NO_NODE: Final = "nowhere"
"""Placeholder for the node of an unscheduled pod."""
_VARIABLE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
T = TypeVar("T")


def genuine_nmi(labelled: Sequence[Daemon]) -> Sequence[Daemon]:
    """Return the pods of NMI among those with its label: the ones that a DaemonSet runs in the node's network or with
    files of the node, else all of that kind, else all. A tenant can label a pod like NMI.
    """
    of_node = [daemon for daemon in labelled if daemon.is_part_of_node]
    return [daemon for daemon in of_node if daemon.looks_like_nmi] or of_node or labelled


def genuine_mic(labelled: Sequence[Daemon], nmi: Sequence[Daemon]) -> Sequence[Daemon]:
    """Return the pods of MIC among those with its label: the ones in a namespace of *nmi*, else the ones in the
    namespace that *nmi* has as --MICNamespace, else all. A tenant can label a pod like MIC.
    """
    namespaces = {daemon.metadata.namespace for daemon in nmi}
    if genuine := [daemon for daemon in labelled if daemon.metadata.namespace in namespaces]:
        return genuine
    # The flags of NMI are parsed only if a pod has the label of MIC.
    namespaces = mic_namespaces(nmi) if labelled else set()
    return [daemon for daemon in labelled if daemon.metadata.namespace in namespaces] or labelled


def mic_namespaces(nmi: Sequence[Daemon]) -> set[str]:
    """Return the values of --MICNamespace of the NMIs whose flags can be read."""
    return {configuration.settings.mic_namespace for configuration in readable_configurations(nmi)}


def flags_of(daemon: Daemon, program: str) -> list[str]:
    """Return the command line of *program* in its pod, with `$(NAME)` expanded as the kubelet does."""
    container, values = daemon.container(program), environment_of(daemon, program)
    words = _arguments_after(program, [*container.command, *container.args]) if container is not None else []
    return [_VARIABLE.sub(lambda match: values.get(match[1], match[0]), word) for word in words]


def _arguments_after(program: str, words: list[str]) -> list[str]:
    """Return the arguments after the program name, which may be Python's `-m nmi`."""
    for at, (word, following) in enumerate(pairwise(words)):
        if (word, following) == ("-m", program):
            return words[at + 2 :]
    # The program itself, whatever its path, has no dash.
    return [*dropwhile(lambda word: not word.startswith("-"), words)]


def reject_help(given: list[str]) -> list[str]:
    """Return *given*. Raises UsageError if it has a help flag, because the parser would print the help text."""
    if any(flag.lstrip("-").partition("=")[0] in {"help", "h"} for flag in given if flag.startswith("-")):
        raise UsageError("it has the flag --help, with which it exits immediately")
    return given


def environment_of(daemon: Daemon, program: str) -> dict[str, str]:
    """Return the environment as far as the pod's manifest states it."""
    container, environment = daemon.container(program), dict[str, str]()
    fields = {
        "spec.nodeName": daemon.spec.node_name,
        "metadata.name": daemon.metadata.name,
        "metadata.namespace": daemon.metadata.namespace,
    }
    for variable in container.env if container is not None else ():
        field = variable.value_from.field_ref.field_path if variable.value_from is not None else ""
        environment[variable.name] = fields.get(field, variable.value)
    return environment


def _command_line(daemon: Daemon, program: str) -> tuple[list[str], dict[str, str]]:
    """Return the flags, and the variables that change settings. Raises UsageError for a flag that requests help."""
    # Other variables name files inside the pod, which must not be opened on this machine.
    kept = {name: value for name, value in environment_of(daemon, program).items() if name == "FORCENAMESPACED"}
    return reject_help(flags_of(daemon, program)), kept


def nmi_settings(daemon: Daemon) -> NmiSettings:
    """Return the settings of the NMI in that pod. Raises UsageError for a command line that this version's NMI
    rejects.
    """
    given, kept = _command_line(daemon, "nmi")
    if not daemon.spec.node_name:
        raise UsageError(f"pod {daemon.name} is not scheduled to a node yet")
    # The node that runs the pod counts, whatever its flag says.
    return parse([*given, f"--node={daemon.spec.node_name}"], kept)


def likely_nmi(here: Sequence[Daemon]) -> Daemon | None:
    """Return the pod that most likely is NMI among those with its label on a node, or None if there are none."""
    # Two genuine pods are on a node while the DaemonSet replaces one, and a tenant can label a pod like NMI.
    return max(here, key=lambda daemon: (daemon.looks_like_nmi, daemon.ready), default=None)


def on_node(nmi: Sequence[Daemon] | ReadFailure, node: str) -> Sequence[Daemon]:
    """Return NMI's pods on *node*; none if they could not be read."""
    return [daemon for daemon in readable(nmi) if daemon.spec.node_name == node]


def given_configuration(flags: list[str]) -> NmiConfiguration:
    """Return the configuration of an NMI with the *flags* of --nmi-flags. Raises UsageError."""
    # NMI's parser requires a node, which no decision of podidctl depends on.
    return NmiConfiguration(parse([*reject_help(flags), f"--node={NO_NODE}"], {}), "--nmi-flags", is_given=True)


def configuration_of(nmi: Sequence[Daemon] | ReadFailure, pod: Pod | None) -> NmiConfiguration:
    """Return the NMI configuration for *pod*: the flags of the likely NMI pod on its node, or the defaults."""
    usual = NmiSettings(node_name=(pod.spec.node_name if pod is not None else "") or NO_NODE)
    if pod is None or not pod.spec.node_name:
        return NmiConfiguration(
            usual, "NMI's defaults, because the pod is on no node; pass NMI's flags with --nmi-flags"
        )
    daemon = likely_nmi(on_node(nmi, pod.spec.node_name))
    if daemon is None:
        return NmiConfiguration(
            usual, "NMI's defaults, because no NMI pod was found on the node; pass its flags with --nmi-flags"
        )
    try:
        return _nmi_configuration(daemon)
    except UsageError as error:
        return NmiConfiguration(
            usual, (f"NMI's defaults, because the flags of pod {daemon.name} cannot be read ({error})")
        )


def _nmi_configuration(daemon: Daemon) -> NmiConfiguration:
    """Return the configuration in the flags of the NMI in that pod. Raises UsageError."""
    cloud_file = environment_of(daemon, "nmi").get("AZURE_ENVIRONMENT_FILEPATH", "")
    return NmiConfiguration(nmi_settings(daemon), f"the flags of pod {daemon.name}", cloud_file)


def mic_settings(daemon: Daemon) -> MicSettings:
    """Return the settings of the MIC in that pod. Raises UsageError for a command line that this version's MIC
    rejects.
    """
    given, kept = _command_line(daemon, "mic")
    return parse_mic(given, {**kept, "MIC_POD_NAMESPACE": daemon.metadata.namespace})


def read_settings(pods: Iterable[Daemon], read: Callable[[Daemon], T]) -> tuple[list[T], list[str]]:
    """Return the readable settings, and one line per reason for the others."""
    settings: list[T] = []
    unread: dict[str, str] = {}
    for pod in pods:
        try:
            settings.append(read(pod))
        except UsageError as error:
            unread.setdefault(str(error), pod.name)
    return settings, [f"pod {name}: {reason}" for reason, name in unread.items()]


def readable_configurations(nmi: Sequence[Daemon]) -> list[NmiConfiguration]:
    """Return the configurations of the NMIs whose flags can be read. The check of flags reports the others."""
    # Parsing takes milliseconds, and a cluster has hundreds of NMIs with the same command line.
    parsed: dict[bytes, list[NmiConfiguration]] = {}
    configurations = []
    for daemon in nmi:
        if not (node := daemon.spec.node_name):
            continue
        # With the namespace, because a flag may contain it as a variable.
        command_line = msgspec.json.encode((daemon.metadata.namespace, daemon.spec.containers))
        if command_line not in parsed:
            parsed[command_line] = read_settings([daemon], _nmi_configuration)[0]
        for configuration in parsed[command_line]:
            settings = msgspec.structs.replace(configuration.settings, node_name=node)
            configurations.append(replace(configuration, settings=settings, source=f"the flags of pod {daemon.name}"))
    return configurations


def readable_mic_settings(mic: Sequence[Daemon]) -> list[MicSettings]:
    """Return the settings of the MICs whose flags can be read. The check of flags reports the others."""
    return read_settings(mic, mic_settings)[0]


def is_managed(nmi: Sequence[NmiConfiguration]) -> bool:
    """Return whether all NMIs run in managed mode; False without any."""
    return bool(nmi) and all(configuration.settings.operation_mode is OperationMode.MANAGED for configuration in nmi)


def is_namespaced(nmi: Sequence[NmiConfiguration], mic: Sequence[Daemon]) -> bool:
    """Return whether a flag of NMI or MIC restricts identities to their own namespace.

    A MIC that has no node yet does not count: as long as its rollout waits, the other one makes the assignments.
    """
    scheduled = [daemon for daemon in mic if daemon.spec.node_name]
    return any(configuration.settings.force_namespaced for configuration in nmi) or any(
        settings.force_namespaced for settings in readable_mic_settings(scheduled)
    )


def mic_policy(mic: Sequence[Daemon]) -> Policy:
    """Return the policy of the first MIC whose flags can be read, without the cluster's own identity."""
    settings = readable_mic_settings(mic)
    return policy_of(settings[0], "") if settings else Policy()
