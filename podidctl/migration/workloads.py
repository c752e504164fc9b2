"""Workloads of a cluster by their templates, standalone pods, and their identities by MIC's own rules. Pure.

Templates are read instead of pods, so that workloads that are scaled to zero or run on a schedule are included.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from mic.cluster.bindings import BindingIndex, indexed
from mic.decisions.assignments import DesiredAssignment
from podidctl.evaluation.cluster import in_nmis_order
from podidctl.facts.workloads import JOBS, OWNERS_MAX, TEMPLATED, WorkloadObject, controller
from podidentity.resources import (
    BINDING_LABEL,
    AzureIdentity,
    AzureIdentityBinding,
    Kind,
    Meta,
    Pod,
    PodMeta,
    PodSpec,
    Resource,
    ScheduledPod,
)

DEFAULT_ACCOUNT: Final = "default"
"""Service account of pods that name none."""

Key = tuple[str, str]
"""Namespace and name."""


class ServiceAccount(Resource, frozen=True):
    metadata: Meta = Meta()
    image_pull_secrets: list[dict[str, Any]] | None = None
    automount_service_account_token: bool | None = None


SERVICE_ACCOUNTS: Final = Kind("ServiceAccount", "serviceaccounts", ServiceAccount)


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
class WorkloadState:
    """The identities, workloads and pods of a cluster."""

    identities: Sequence[AzureIdentity]
    bindings: Sequence[AzureIdentityBinding]
    objects: Mapping[str, Sequence[WorkloadObject]]
    """By kind, one of TEMPLATED."""
    pods: Sequence[ScheduledPod]
    accounts: Sequence[ServiceAccount]
    force_namespaced: bool = False

    @cached_property
    def workloads(self) -> Sequence[Workload]:
        """Top-level workloads, and pods without a known owner."""
        return [*self._templated(), *self._standalone_pods()]

    def desired(self, workload: Workload) -> Sequence[DesiredAssignment]:
        """Return the desired assignments of *workload*; the first one serves requests that name no identity."""
        return self.desired_for(workload.namespace, workload.labels.get(BINDING_LABEL, ""))

    def desired_for(self, namespace: str, label: str) -> Sequence[DesiredAssignment]:
        """Return the desired assignments of any pod of *namespace* with this *label*."""
        desired = self._desired.get((namespace, label))
        if desired is not None:
            return desired
        pod = Pod(
            metadata=PodMeta(namespace=namespace, name="any", labels={BINDING_LABEL: label}),
            spec=PodSpec(node_name="any"),
        )
        return self._desired.setdefault((namespace, label), in_nmis_order(self._index.all_desired(pod).values()))

    def manually_labelled_pods(self) -> Iterator[ScheduledPod]:
        """Yield pods with another label than their template."""
        for pod in self.pods:
            top = self._owner(pod)
            if not pod.binding_label or top is None:
                continue
            for _ in range(OWNERS_MAX):
                top = self._owner(top) or top
            if top.template.metadata.label(BINDING_LABEL) != pod.binding_label:
                yield pod

    def _templated(self) -> Iterator[Workload]:
        for kind in TEMPLATED:
            for item in self.objects.get(kind.name, ()):
                # An ended Job creates no more pods.
                if self._owner(item) is not None or (kind is JOBS and item.status.ended):
                    continue
                note = _unknown_owner_note(item) or ("the template of a Job is immutable" if kind is JOBS else "")
                labels = item.template.metadata.labels
                yield _workload((kind.api_version, kind.name, *item.key), labels, item.template.spec, note)

    def _standalone_pods(self) -> Iterator[Workload]:
        """Yield pods without a built-in owner; equal pods of one foreign owner are one workload."""
        alike: set[tuple[str, ...]] = set()
        for pod in self.pods:
            if self._owner(pod) is not None or pod.finished:
                continue
            meta, owner = pod.metadata, controller(pod)
            if owner is None:
                note = "it is a standalone pod, which is immutable"
                yield _workload(("v1", "Pod", *pod.key), meta.labels, pod.spec, note)
                continue
            maker = (owner.api_version, owner.kind, meta.namespace, owner.name)
            workload = _workload(maker, meta.labels, pod.spec, _unknown_owner_note(pod))
            group = (*maker, workload.account, pod.binding_label)
            if group not in alike:
                alike.add(group)
                yield workload

    def _owner(self, item: Resource) -> WorkloadObject | None:
        """Return the built-in owner of *item* if it exists."""
        owner = controller(item)
        if owner is None or owner.api_version not in {kind.api_version for kind in TEMPLATED}:
            return None
        return self._existing.get((owner.kind, item.metadata.namespace, owner.name))

    @cached_property
    def _existing(self) -> Mapping[tuple[str, str, str], WorkloadObject]:
        """The objects by kind, namespace and name."""
        return {(kind.name, *item.key): item for kind in TEMPLATED for item in self.objects.get(kind.name, ())}

    @cached_property
    def _index(self) -> BindingIndex:
        return indexed(self.identities, self.bindings, force_namespaced=self.force_namespaced)

    @cached_property
    def _desired(self) -> dict[tuple[str, str], Sequence[DesiredAssignment]]:
        """Desired assignments, computed once per namespace and label."""
        return {}


def _workload(
    reference: tuple[str, str, str, str], labels: Mapping[str, str] | None, spec: PodSpec, unpatchable: str
) -> Workload:
    account = spec.service_account_name or DEFAULT_ACCOUNT
    return Workload(*reference, labels or {}, account, unpatchable, spec.host_network)


def _unknown_owner_note(item: Resource) -> str:
    owner = controller(item)
    return f"it is managed by {owner.kind} {owner.name} ({owner.api_version}), an unknown kind" if owner else ""
