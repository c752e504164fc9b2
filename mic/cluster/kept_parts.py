"""The parts of watched objects that MIC keeps in memory. No I/O.

Thousands of objects have the same namespace, node, label, finalizers, identity and binding. MIC keeps each of these
values once. Values are never changed, so that sharing them is not visible.
"""

from collections.abc import Callable
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from podidentity.object_limits import reduced
from podidentity.resources import (
    BINDING_LABEL,
    FINALIZER,
    NODENAME_LABEL,
    AzureAssignedIdentity,
    AzureAssignedIdentitySpec,
    AzureAssignedIdentityStatus,
    AzureIdentity,
    AzureIdentityBinding,
    BareMeta,
    Meta,
    Node,
    PodMeta,
    PodPhase,
    PodSpec,
    ScheduledPod,
)
from podidentity.shared_values import SharedValues

SHARED_MAX: Final = 16_384
"""Values of one sort in each of two generations: a cluster has up to 10,000 nodes. An attacker who creates pods with
always new labels can fill 15 MiB."""
REPLICAS: Final = 1
"""`availableReplicas` of every assigned identity that MIC or the Go implementation writes."""

V = TypeVar("V")
C = TypeVar("C", AzureIdentity, AzureIdentityBinding)

_FINALIZERS: Final = [FINALIZER]


def shared(make: Callable[[str], V]) -> SharedValues[str, V]:
    """Return the shared values of one sort, each made from a text."""
    return SharedValues(make, SHARED_MAX, length=len)


class ObjectReducer:
    """Reducer of watched objects to the parts that MIC keeps, for the informers' `keep`."""

    def __init__(self) -> None:
        self._texts = shared(lambda text: text)
        self._pod_labels = shared(lambda value: {BINDING_LABEL: value})
        self._pod_specs = shared(lambda node: PodSpec(node_name=node))
        self._phases = shared(lambda phase: PodPhase(phase=phase))
        self._node_labels = shared(lambda value: {NODENAME_LABEL: value})
        self._statuses = shared(lambda status: AzureAssignedIdentityStatus(status=status, available_replicas=REPLICAS))
        # Weak, so that a copy ends with the last object that embeds it.
        self._identities: WeakValueDictionary[tuple[str, ...], AzureIdentity] = WeakValueDictionary()
        self._bindings: WeakValueDictionary[tuple[str, ...], AzureIdentityBinding] = WeakValueDictionary()

    def pod(self, pod: ScheduledPod) -> ScheduledPod:
        """Return *pod* with no other label than the one that bindings select by. Only a mirror pod keeps its owners
        and marks, which make it one."""
        meta, label = pod.metadata, pod.binding_label
        kept = reduced(pod).metadata if pod.mirror else PodMeta()
        return ScheduledPod(
            metadata=PodMeta(
                name=meta.name,
                namespace=self._texts.of(meta.namespace),
                uid=meta.uid,
                resource_version=meta.resource_version,
                deletion_timestamp=meta.deletion_timestamp,
                labels=self._pod_labels.of(label) if label else None,
                owner_references=kept.owner_references,
                marks=kept.marks,
            ),
            spec=self._pod_specs.of(pod.spec.node_name),
            status=self._phases.of(pod.status.phase),
        )

    def node(self, node: Node) -> Node:
        """Return *node* with its names, version and providerID only."""
        meta = node.metadata
        return Node(
            metadata=BareMeta(name=self._texts.of(meta.name), uid=meta.uid, resource_version=meta.resource_version),
            spec=node.spec,
        )

    def assigned(self, existing: AzureAssignedIdentity) -> AzureAssignedIdentity:
        """Return *existing* with its own metadata, which MIC writes back, and shared copies of what other objects have
        too."""
        meta, spec, status = existing.metadata, existing.spec, existing.status
        labels = meta.labels
        # With labels of other clients, which MIC writes back, the map stays the object's own.
        if labels is not None and len(labels) == 1 and NODENAME_LABEL in labels:
            labels = self._node_labels.of(labels[NODENAME_LABEL])
        return AzureAssignedIdentity(
            metadata=Meta(
                name=meta.name,
                namespace=self._texts.of(meta.namespace),
                uid=meta.uid,
                resource_version=meta.resource_version,
                deletion_timestamp=meta.deletion_timestamp,
                labels=labels,
                owner_references=meta.owner_references,
                annotations=meta.annotations,
                finalizers=_FINALIZERS if meta.finalizers == _FINALIZERS else meta.finalizers,
            ),
            spec=AzureAssignedIdentitySpec(
                azure_identity_ref=_embedded(self._identities, spec.azure_identity_ref),
                azure_binding_ref=_embedded(self._bindings, spec.azure_binding_ref),
                pod=spec.pod,
                pod_namespace=self._texts.of(spec.pod_namespace),
                nodename=self._texts.of(spec.nodename),
            ),
            status=self._statuses.of(status.status) if status.available_replicas == REPLICAS else status,
        )


def _embedded(copies: WeakValueDictionary[tuple[str, ...], C], resource: C) -> C:
    """Return an equal copy that another object embeds, if there is one; else *resource* without unread metadata."""
    meta = resource.metadata
    key = (meta.namespace, meta.name, meta.resource_version)
    copy = copies.get(key)
    if copy is resource:
        return resource
    resource = reduced(resource)
    # Equal versions are not enough: other clients can write copies that differ.
    if copy is not None and copy == resource:
        return copy
    copies[key] = resource
    return resource
