"""The parts of watched pods and assigned identities that NMI keeps in memory. No I/O.

The pods of a node have many equal parts, and status and labels take most of a pod's memory. NMI keeps each equal part
once. The values are never changed, so that sharing them is not visible.
"""

from collections.abc import Iterable
from typing import Final
from weakref import WeakValueDictionary

from nmi.identity.assigned_identity import trimmed
from podidentity.object_limits import reduced
from podidentity.resources import (
    POD_UID_ANNOTATION,
    SANDBOX_CONDITIONS,
    AzureAssignedIdentity,
    AzureAssignedIdentitySpec,
    AzureAssignedIdentityStatus,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentityBindingSpec,
    ContainerStatus,
    Meta,
    Pod,
    PodCondition,
    PodMeta,
    PodSpec,
    PodStatus,
)
from podidentity.shared_values import SharedValues

SHARED_MAX: Final = 512
"""Values of one sort in each of two generations. A tenant who creates pods with always new labels can fill 4 MiB."""
LABELS_CHARS: Final = 2048
"""Characters of a set of labels that is shared."""

_Labels = tuple[tuple[str, str], ...]
_Spec = tuple[str, str, bool]

_NO_CONTAINERS: Final[list[ContainerStatus]] = []
_NO_ADDRESSES: Final = PodStatus().pod_ips


class KeptParts:
    """The kept part of each object, as the informers' `keep`."""

    def __init__(self) -> None:
        self._texts: SharedValues[str, str] = SharedValues(lambda text: text, SHARED_MAX, length=len)
        self._labels = SharedValues(_labels, SHARED_MAX, length=_label_characters, longest=LABELS_CHARS)
        self._bindings = SharedValues(_binding, SHARED_MAX, length=lambda key: sum(map(len, key)))
        # Weak, so that an identity ends with the last object that contains it, without a count.
        self._identities: WeakValueDictionary[tuple[str, ...], AzureIdentity] = WeakValueDictionary()
        self._specs = SharedValues(_spec, SHARED_MAX, length=lambda key: len(key[0]) + len(key[1]))

    def pod(self, pod: Pod) -> Pod:
        """Return *pod* with equal parts shared, and of its conditions only those that report its sandbox."""
        pod = reduced(pod)
        meta, spec, status = pod.metadata, pod.spec, pod.status
        # Most pods have one address; the list of it would be the same text again for each pod.
        alone = [address.ip for address in status.pod_ips] == [status.pod_ip]
        return Pod(
            metadata=PodMeta(
                name=meta.name,
                namespace=self._texts.of(meta.namespace),
                uid=meta.uid,
                resource_version=meta.resource_version,
                deletion_timestamp=meta.deletion_timestamp,
                labels=self._labels.of(tuple(meta.labels.items())) if meta.labels else None,
                owner_references=meta.owner_references,
                marks=meta.marks,
            ),
            spec=self._specs.of((spec.node_name, spec.service_account_name, spec.host_network)),
            status=PodStatus(
                phase=self._texts.of(status.phase),
                pod_ip=status.pod_ip,
                pod_ips=_NO_ADDRESSES if alone else status.pod_ips,
                container_statuses=_containers(status.container_statuses),
                init_container_statuses=_containers(status.init_container_statuses),
                ephemeral_container_statuses=_containers(status.ephemeral_container_statuses),
                conditions=self._sandbox_conditions(status.conditions),
            ),
        )

    def assigned(self, assigned: AzureAssignedIdentity) -> AzureAssignedIdentity:
        """Return *assigned* with the metadata that a decision depends on, and one copy of equal identities."""
        meta, spec, status = assigned.metadata, assigned.spec, assigned.status
        pod_uid, binding = meta.annotation(POD_UID_ANNOTATION), spec.azure_binding_ref
        return AzureAssignedIdentity(
            metadata=Meta(
                name=meta.name,
                namespace=self._texts.of(meta.namespace),
                uid=meta.uid,
                resource_version=meta.resource_version,
                deletion_timestamp=meta.deletion_timestamp,
                # Megabytes of other annotations, which a tenant may write, must not remain in memory.
                annotations={POD_UID_ANNOTATION: pod_uid} if pod_uid else None,
            ),
            spec=AzureAssignedIdentitySpec(
                azure_identity_ref=self._identity(spec.azure_identity_ref),
                azure_binding_ref=self._bindings.of(
                    (binding.metadata.namespace, binding.metadata.name, binding.spec.selector)
                ),
                pod=spec.pod,
                pod_namespace=self._texts.of(spec.pod_namespace),
                nodename=self._texts.of(spec.nodename),
            ),
            status=AzureAssignedIdentityStatus(status=self._texts.of(status.status)),
        )

    def _identity(self, identity: AzureIdentity) -> AzureIdentity:
        """Return the kept copy of *identity* that another object has too, if there is one."""
        meta = identity.metadata
        key = (meta.namespace, meta.name, meta.resource_version)
        shared, kept = self._identities.get(key), trimmed(identity)
        # Copies in assigned identities may differ in spite of equal versions, because clients write them.
        if shared is not None and shared == kept:
            return shared
        self._identities[key] = kept
        return kept

    def _sandbox_conditions(self, conditions: Iterable[PodCondition]) -> tuple[PodCondition, ...]:
        return tuple(
            PodCondition(type=self._texts.of(condition.type), status=self._texts.of(condition.status))
            for condition in conditions
            if condition.type in SANDBOX_CONDITIONS
        )


def _containers(statuses: list[ContainerStatus]) -> list[ContainerStatus]:
    return statuses or _NO_CONTAINERS


def _binding(key: tuple[str, ...]) -> AzureIdentityBinding:
    namespace, name, selector = key
    return AzureIdentityBinding(
        metadata=Meta(namespace=namespace, name=name), spec=AzureIdentityBindingSpec(selector=selector)
    )


def _labels(items: _Labels) -> dict[str, str]:
    return dict(items)


def _label_characters(items: _Labels) -> int:
    return sum(len(key) + len(value) for key, value in items)


def _spec(key: _Spec) -> PodSpec:
    node_name, service_account_name, host_network = key
    return PodSpec(node_name=node_name, service_account_name=service_account_name, host_network=host_network)
