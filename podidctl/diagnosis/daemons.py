"""Pods of NMI and MIC: node, image, readiness and flags.

They are found by the labels that the chart and the manifests set, both in this project and in the Go implementation.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import dropwhile, pairwise
from typing import Final

import msgspec

from nmi.settings import Settings, parse
from podidentity.flags import UsageError
from podidentity.kube.client import Client
from podidentity.resources import Kind, PodMeta, Resource, Wire

LABELS: Final = ("app.kubernetes.io/component", "component")
_VARIABLE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


class FieldRef(Wire, frozen=True):
    field_path: str = ""


class ValueFrom(Wire, frozen=True):
    field_ref: FieldRef = FieldRef()


class EnvironmentVariable(Wire, frozen=True):
    name: str = ""
    value: str = ""
    value_from: ValueFrom | None = None


class DaemonContainer(Wire, frozen=True):
    name: str = ""
    image: str = ""
    command: list[str] = msgspec.field(default_factory=list)
    args: list[str] = msgspec.field(default_factory=list)
    env: list[EnvironmentVariable] = msgspec.field(default_factory=list)


class HostPath(Wire, frozen=True):
    path: str = ""


class DaemonVolume(Wire, frozen=True):
    host_path: HostPath | None = None


class Toleration(Wire, frozen=True):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


class FieldRequirement(Wire, frozen=True):
    key: str = ""
    values: list[str] | None = None


class NodeSelectorTerm(Wire, frozen=True):
    match_fields: list[FieldRequirement] | None = None


class NodeSelector(Wire, frozen=True):
    node_selector_terms: list[NodeSelectorTerm] | None = None


class NodeAffinity(Wire, frozen=True):
    required: NodeSelector | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)


class Affinity(Wire, frozen=True):
    node_affinity: NodeAffinity | None = None


class DaemonSpec(Wire, frozen=True):
    node_name: str = ""
    node_selector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None
    affinity: Affinity | None = None
    host_network: bool = False
    volumes: list[DaemonVolume] = msgspec.field(default_factory=list)
    service_account_name: str = ""
    containers: list[DaemonContainer] = msgspec.field(default_factory=list)


class DaemonCondition(Wire, frozen=True):
    type: str = ""
    status: str = ""
    message: str | None = None


class WaitingState(Wire, frozen=True):
    reason: str | None = None
    message: str | None = None


class ContainerState(Wire, frozen=True):
    waiting: WaitingState | None = None


class ContainerStatus(Wire, frozen=True):
    name: str = ""
    restart_count: int = 0
    state: ContainerState = ContainerState()


class DaemonStatus(Wire, frozen=True):
    phase: str = ""
    conditions: list[DaemonCondition] = msgspec.field(default_factory=list)
    container_statuses: list[ContainerStatus] = msgspec.field(default_factory=list)


class Daemon(Resource, frozen=True):
    """A pod of NMI or MIC."""

    metadata: PodMeta = PodMeta()
    spec: DaemonSpec = DaemonSpec()
    status: DaemonStatus = DaemonStatus()

    @property
    def name(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def ready(self) -> bool:
        return self.metadata.deletion_timestamp is None and any(
            each.type == "Ready" and each.status == "True" for each in self.status.conditions
        )

    @property
    def is_part_of_node(self) -> bool:
        """Whether the pod is in the node's network, or has files of the node, as NMI has with the backend `cilium`.

        The Pod Security levels `baseline` and `restricted` permit neither to tenants.
        """
        return self.spec.host_network or any(each.host_path is not None for each in self.spec.volumes)

    @property
    def looks_like_nmi(self) -> bool:
        """Whether more than the label identifies this pod as NMI: anyone with permission to create a pod can set the
        label.
        """
        return self.is_part_of_node and bool(self.daemon_set)

    @property
    def daemon_set(self) -> str:
        """Name of the DaemonSet that runs the pod; empty if none does."""
        owners = self.metadata.owner_references or ()
        return next((each.name for each in owners if each.kind == "DaemonSet" and each.controller), "")

    @property
    def intended_node(self) -> str:
        """Name of the node for which the DaemonSet created the pod, also before the pod is scheduled."""
        affinity = self.spec.affinity.node_affinity if self.spec.affinity is not None else None
        terms = affinity.required.node_selector_terms if affinity is not None and affinity.required is not None else ()
        fields = (field for term in terms or () for field in term.match_fields or ())
        return next((each.values[0] for each in fields if each.key == "metadata.name" and each.values), "")

    @property
    def unscheduled_reason(self) -> str:
        """Return why the pod has no node, as the scheduler reports it."""
        found = (each.message for each in self.status.conditions if each.type == "PodScheduled" and each.message)
        return next(found, None) or "the scheduler has not reported a reason"

    @property
    def not_ready_reason(self) -> str:
        """Return why the pod is not ready, as its status reports it."""
        for each in self.status.container_statuses:
            if (waiting := each.state.waiting) is not None and waiting.reason:
                restarts = f", restarted {each.restart_count} times" if each.restart_count else ""
                return f"{each.name}: {waiting.reason}{restarts}"
        return "it is being deleted" if self.metadata.deletion_timestamp else f"phase {self.status.phase or 'unknown'}"

    def container(self, program: str) -> DaemonContainer | None:
        """Return the container of *program*: by its name, else the first one."""
        named = (each for each in self.spec.containers if each.name == program)
        return next(named, self.spec.containers[0] if self.spec.containers else None)


DAEMONS: Final = Kind("Pod", "pods", Daemon)


async def list_daemons(client: Client, component: str, *, node: str = "") -> list[Daemon]:
    """Return the pods of *component* (`nmi` or `mic`), with *node* only the ones on that node. Raises ApiError."""
    found: dict[tuple[str, str], Daemon] = {}
    field = f"spec.nodeName={node}" if node else ""
    for label in LABELS:
        for each in await client.list(DAEMONS, field_selector=field, label_selector=f"{label}={component}"):
            if each.status.phase not in {"Succeeded", "Failed"}:
                found[each.key] = each
    return [found[key] for key in sorted(found)]


def genuine_nmi(found: Sequence[Daemon]) -> Sequence[Daemon]:
    """Return the pods of NMI among those with its label: the ones that a DaemonSet runs in the node's network or with
    files of the node, else all of that kind, else all. A tenant can label a pod like NMI.
    """
    of_node = [each for each in found if each.is_part_of_node]
    return [each for each in of_node if each.looks_like_nmi] or of_node or found


def genuine_mic(found: Sequence[Daemon], nmi: Sequence[Daemon]) -> Sequence[Daemon]:
    """Return the pods of MIC among those with its label: the ones in a namespace of *nmi*, else the ones in the
    namespace that *nmi* has as --MICNamespace, else all. A tenant can label a pod like MIC.
    """
    namespaces = {each.metadata.namespace for each in nmi}
    if genuine := [each for each in found if each.metadata.namespace in namespaces]:
        return genuine
    namespaces = mic_namespaces(nmi) if found else set()
    return [each for each in found if each.metadata.namespace in namespaces] or found


def mic_namespaces(nmi: Iterable[Daemon]) -> set[str]:
    """Return the values of --MICNamespace of the NMIs whose flags can be read."""
    found = set()
    for each in nmi:
        try:
            found.add(nmi_settings(each).mic_namespace)
        except UsageError:
            continue
    return found


def flags_of(daemon: Daemon, program: str) -> list[str]:
    """Return the command line of *program* in its pod, with `$(NAME)` expanded as the kubelet does."""
    container = daemon.container(program)
    if container is None:
        return []
    values = dict(_variables(daemon, container))

    def filled(found: re.Match[str]) -> str:
        return values.get(found[1], found[0])

    return [_VARIABLE.sub(filled, word) for word in _arguments_after(program, [*container.command, *container.args])]


def _arguments_after(program: str, words: list[str]) -> list[str]:
    """Return the arguments after the program name, which may be Python's `-m nmi`."""
    for at, (word, following) in enumerate(pairwise(words)):
        if (word, following) == ("-m", program):
            return words[at + 2 :]
    return [*dropwhile(lambda word: not word.startswith("-"), words)]


def parseable_flags(daemon: Daemon, program: str) -> list[str]:
    """Return the flags if they are safe to parse. Raises UsageError for one that requests help."""
    return reject_help(flags_of(daemon, program))


def reject_help(given: list[str]) -> list[str]:
    """Return *given*. Raises UsageError if it has a help flag, because the parser would print the help text."""
    if any(each.lstrip("-").partition("=")[0] in {"help", "h"} for each in given if each.startswith("-")):
        raise UsageError("it has the flag --help, with which it exits immediately")
    return given


def environment_of(daemon: Daemon, program: str) -> dict[str, str]:
    """Return the environment as far as the pod's manifest states it."""
    container = daemon.container(program)
    return dict(_variables(daemon, container)) if container is not None else {}


def _variables(daemon: Daemon, container: DaemonContainer) -> Iterator[tuple[str, str]]:
    fields: dict[str, Callable[[], str]] = {
        "spec.nodeName": lambda: daemon.spec.node_name,
        "metadata.name": lambda: daemon.metadata.name,
        "metadata.namespace": lambda: daemon.metadata.namespace,
    }
    for each in container.env:
        read = fields.get(each.value_from.field_ref.field_path) if each.value_from is not None else None
        yield each.name, read() if read is not None else each.value


def nmi_settings(daemon: Daemon) -> Settings:
    """Return the settings of the NMI in that pod. Raises UsageError for a command line that this version's NMI
    rejects.
    """
    given = parseable_flags(daemon, "nmi")
    environ = environment_of(daemon, "nmi")
    # Other variables name files inside the pod, which must not be opened on this machine.
    kept: dict[str, str] = {name: environ[name] for name in ("FORCENAMESPACED",) if name in environ}
    if not daemon.spec.node_name:
        raise UsageError(f"pod {daemon.name} is not scheduled to a node yet")
    return parse([*given, f"--node={daemon.spec.node_name}"], kept)
