"""Objects of the cluster with short names and usual content, for tests; and the ids of Azure that they refer to."""

from typing import Final, TypeAlias

import msgspec

from mic.decisions import documents
from mic.decisions.assignments import AttachedBy, DesiredAssignment
from podidentity.resources import (
    ASSIGNED,
    BEHAVIOR_ANNOTATION,
    BINDING_LABEL,
    MESSAGE_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentityBindingSpec,
    AzureIdentitySpec,
    Meta,
    Node,
    NodeSpec,
    Pod,
    PodMarks,
    PodMeta,
    PodSpec,
    PodStatus,
)

ClusterObject: TypeAlias = Pod | Node | AzureIdentity | AzureIdentityBinding

GROUP: Final = "/subscriptions/sub/resourceGroups/rg/providers"


def vm_id(name: str = "vm") -> str:
    return f"{GROUP}/Microsoft.Compute/virtualMachines/{name}"


def set_id(name: str = "pool") -> str:
    return f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets/{name}"


def identity_id(name: str) -> str:
    return f"/subscriptions/sub/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"


def pod(
    name: str = "web",
    *,
    namespace: str = "default",
    node: str = "n0",
    label: str = "demo",
    phase: str = "Running",
    uid: str = "",
    mirror: bool = False,
) -> Pod:
    labels = {BINDING_LABEL: label} if label else {}
    return Pod(
        metadata=PodMeta(
            name=name,
            namespace=namespace,
            uid=uid or f"uid-{namespace}-{name}",
            labels=labels,
            marks=PodMarks(mirror="hash") if mirror else None,
        ),
        spec=PodSpec(node_name=node),
        status=PodStatus(phase=phase),
    )


def node(name: str = "n0", provider_id: str = "") -> Node:
    return Node(metadata=Meta(name=name), spec=NodeSpec(provider_id=provider_id or f"azure://{vm_id(name)}"))


def set_node(name: str, instance: int, pool: str = "pool") -> Node:
    return node(name, f"azure://{set_id(pool)}/virtualMachines/{instance}")


def identity(
    name: str = "demo",
    *,
    namespace: str = "default",
    type_: int = 0,
    resource_id: str | None = None,
    namespaced: bool = False,
    client_id: str = "",
    tenant_id: str = "",
    uid: str = "",
) -> AzureIdentity:
    return AzureIdentity(
        metadata=Meta(
            name=name,
            namespace=namespace,
            uid=uid or f"uid-{namespace}-{name}",
            annotations={BEHAVIOR_ANNOTATION: "namespaced"} if namespaced else None,
        ),
        spec=AzureIdentitySpec(
            type=type_,
            resource_id=identity_id(name) if resource_id is None else resource_id,
            client_id=client_id or f"client-{name}",
            tenant_id=tenant_id,
        ),
    )


def binding(
    name: str = "demo-binding", *, namespace: str = "default", identity: str = "demo", selector: str = "demo"
) -> AzureIdentityBinding:
    return AzureIdentityBinding(
        metadata=Meta(name=name, namespace=namespace, uid=f"uid-{namespace}-{name}"),
        spec=AzureIdentityBindingSpec(azure_identity=identity, selector=selector),
    )


def assigned(
    pod: Pod,
    identity: AzureIdentity,
    binding: AzureIdentityBinding,
    *,
    status: str = ASSIGNED,
    attached_by: AttachedBy = "mic",
    message: str = "",
) -> AzureAssignedIdentity:
    """Return the object that MIC writes for these, as the API server stores it."""
    desired = DesiredAssignment(pod, binding, identity, None, namespaced=identity.namespaced)
    name = documents.plain_name(desired.assignment_key)
    written = documents.new_document(desired, name, status, attached_by)
    written["metadata"] |= {"namespace": desired.namespace, "uid": f"uid-of-{name}", "resourceVersion": "2"}
    if message:
        written["metadata"]["annotations"][MESSAGE_ANNOTATION] = message
    return msgspec.convert(written, AzureAssignedIdentity)
