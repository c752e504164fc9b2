"""Workloads of a cluster by their templates, and standalone pods. Pure.

Templates are read instead of pods, so that workloads that are scaled to zero or run on a schedule are included.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from podidctl.migration.projections import (
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    JOBS,
    REPLICA_SETS,
    STATEFUL_SETS,
    CronJob,
    OwnedObject,
    PodTemplate,
    RunningPod,
    WorkloadObject,
)
from podidentity.resources import BINDING_LABEL, Kind

DEFAULT_ACCOUNT: Final = "default"
"""Service account of pods that name none."""

OWNERS_MAX: Final = 3
"""Maximum depth of owners; a CronJob's pod has one owner of an owner. Owner references can be circular."""
TEMPLATED: Final[tuple[Kind[Any], ...]] = (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, CRON_JOBS, JOBS, REPLICA_SETS)
"""Kinds with a pod template. Objects of the last two kinds are short-lived and usually have an owner."""

Key = tuple[str, str]
"""Namespace and name."""
ObjectKey = tuple[str, str, str]
"""Kind, namespace and name, for built-in kinds."""


@dataclass(frozen=True)
class Workload:
    """A workload, or a standalone pod."""

    api_version: str
    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    """Labels of its pods."""
    account: str
    unpatchable: str = ""
    """Why it cannot be patched."""
    host_network: bool = False

    @property
    def description(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def account_key(self) -> Key:
        return self.namespace, self.account


@dataclass(frozen=True)
class WorkloadInventory:
    """Workloads and pods of the cluster."""

    objects: Mapping[str, Sequence[WorkloadObject | CronJob]]
    """By kind, one of TEMPLATED."""
    pods: Sequence[RunningPod]

    def workloads(self) -> Iterator[Workload]:
        """Yield top-level workloads, and pods without a known owner."""
        existing = self._existing()
        for (kind, namespace, _), each in existing.items():
            if _owner(each, existing) is not None:
                continue
            if kind == JOBS.name and isinstance(each, WorkloadObject) and each.status.ended:
                continue
            why = _unknown_owner_note(each)
            if kind == JOBS.name:
                why = why or "the template of a Job is immutable"
            yield _from_template(kind, namespace, each, why)
        yield from self._pods(existing)

    def _pods(self, existing: Mapping[ObjectKey, object]) -> Iterator[Workload]:
        """Yield pods without a built-in owner; equal pods of one foreign owner are one workload."""
        alike: set[tuple[str, ...]] = set()
        for pod in self.pods:
            if _owner(pod, existing) is not None or pod.status.phase in {"Succeeded", "Failed"}:
                continue
            meta, owner = pod.metadata, pod.metadata.controller
            account, labels = pod.spec.service_account_name or DEFAULT_ACCOUNT, meta.labels or {}
            if owner is None:
                why = "it is a standalone pod, which is immutable"
                yield Workload("v1", "Pod", meta.namespace, meta.name, labels, account, why, pod.spec.host_network)
                continue
            maker = (owner.api_version, owner.kind, meta.namespace, owner.name)
            one = (*maker, account, meta.label(BINDING_LABEL))
            if one not in alike:
                alike.add(one)
                yield Workload(*maker, labels, account, _unknown_owner_note(pod), pod.spec.host_network)

    def manually_labelled_pods(self) -> Iterator[RunningPod]:
        """Yield pods with another label than their template."""
        existing = self._existing()
        for pod in self.pods:
            label, top = pod.metadata.label(BINDING_LABEL), _owner(pod, existing)
            if not label or not isinstance(top, WorkloadObject | CronJob):
                continue
            for _ in range(OWNERS_MAX):
                above = _owner(top, existing)
                top = above if isinstance(above, WorkloadObject | CronJob) else top
            if _template(top).metadata.label(BINDING_LABEL) != label:
                yield pod

    def _existing(self) -> dict[ObjectKey, WorkloadObject | CronJob]:
        return {(kind.name, *each.key): each for kind in TEMPLATED for each in self.objects.get(kind.name, ())}


def _template(each: WorkloadObject | CronJob) -> PodTemplate:
    return (each.spec.job_template.spec if isinstance(each, CronJob) else each.spec).template


def _from_template(kind: str, namespace: str, each: WorkloadObject | CronJob, why: str) -> Workload:
    template = _template(each)
    group = next(one for one in TEMPLATED if one.name == kind)
    account = template.spec.service_account_name or DEFAULT_ACCOUNT
    labels, host_network = template.metadata.labels or {}, template.spec.host_network
    return Workload(group.api_version, kind, namespace, each.metadata.name, labels, account, why, host_network)


def _owner(each: OwnedObject, existing: Mapping[ObjectKey, object]) -> object | None:
    """Return the built-in owner of *each* if it exists."""
    owner = each.metadata.controller
    if owner is None or owner.api_version not in {kind.api_version for kind in TEMPLATED}:
        return None
    return existing.get((owner.kind, each.metadata.namespace, owner.name))


def _unknown_owner_note(each: OwnedObject) -> str:
    owner = each.metadata.controller
    return f"it is managed by {owner.kind} {owner.name} ({owner.api_version}), an unknown kind" if owner else ""
