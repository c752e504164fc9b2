"""Objects of the cluster with short names and usual content, for tests; and the ids of Azure that they refer to."""

from datetime import UTC, datetime, timedelta
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
    ContainerState,
    ContainerStatus,
    Meta,
    Node,
    NodeSpec,
    OwnerReference,
    Pod,
    PodCondition,
    PodIP,
    PodMarks,
    PodMeta,
    PodSpec,
    PodStatus,
    Running,
    SecretReference,
    Terminated,
)

ClusterObject: TypeAlias = Pod | Node | AzureIdentity | AzureIdentityBinding

GROUP: Final = "/subscriptions/sub/resourceGroups/rg/providers"


def vm_id(name: str = "vm") -> str:
    return f"{GROUP}/Microsoft.Compute/virtualMachines/{name}"


def set_id(name: str = "pool") -> str:
    return f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets/{name}"


def identity_id(name: str) -> str:
    return f"/subscriptions/sub/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"


def started_at(second: int) -> str:
    """That many seconds after a fixed moment, as the kubelet writes it."""
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")


def since(deleting: bool) -> str | None:
    """Return the deletionTimestamp of an object: a time if it is being deleted, else None."""
    return started_at(0) if deleting else None


def pod(
    name: str = "web",
    *,
    namespace: str = "default",
    node: str = "n0",
    label: str | None = "demo",
    labels: dict[str, str] | None = None,
    phase: str = "Running",
    uid: str = "",
    resource_version: str = "",
    mirror: bool = False,
    owner: OwnerReference | None = None,
    deleting: bool = False,
    addresses: tuple[str, ...] = (),
    host_network: bool = False,
    service_account: str = "default",
    started: int = 0,
    terminated: bool = False,
    sandbox: bool | None = None,
) -> Pod:
    """*label*: the binding's selector; none if empty. *labels*: further ones.

    *sandbox*: the status of the condition that its sandbox is ready; None: its kubelet reports none.
    *started*: when its container was started, in seconds after a fixed moment.
    """
    running = ContainerState(running=Running(started_at=started_at(started)))
    return Pod(
        metadata=PodMeta(
            name=name,
            namespace=namespace,
            uid=uid or f"uid-{namespace}-{name}",
            labels={**(labels or {}), **({BINDING_LABEL: label} if label else {})},
            resource_version=resource_version,
            deletion_timestamp=since(deleting),
            owner_references=[owner] if owner is not None else None,
            marks=PodMarks(mirror="hash") if mirror else None,
        ),
        spec=PodSpec(node_name=node, host_network=host_network, service_account_name=service_account),
        status=PodStatus(
            phase=phase,
            pod_ip=addresses[0] if addresses else "",
            pod_ips=[PodIP(ip=address) for address in addresses],
            container_statuses=[
                ContainerStatus(state=ContainerState(terminated=Terminated()) if terminated else running)
            ],
            conditions=[] if sandbox is None else [PodCondition(type="PodReadyToStartContainers", status=str(sandbox))],
        ),
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
    annotations: dict[str, str] | None = None,
    client_id: str = "",
    client_password: SecretReference | None = None,
    tenant_id: str = "",
    uid: str = "",
    resource_version: str = "",
    deleting: bool = False,
) -> AzureIdentity:
    return AzureIdentity(
        metadata=Meta(
            name=name,
            namespace=namespace,
            uid=uid or f"uid-{namespace}-{name}",
            annotations={BEHAVIOR_ANNOTATION: "namespaced"} if namespaced else annotations,
            resource_version=resource_version,
            deletion_timestamp=since(deleting),
        ),
        spec=AzureIdentitySpec(
            type=type_,
            resource_id=identity_id(name) if resource_id is None else resource_id,
            client_id=client_id or f"client-{name}",
            client_password=client_password,
            tenant_id=tenant_id,
        ),
    )


def binding(
    name: str = "demo-binding",
    *,
    namespace: str = "default",
    identity: str = "demo",
    selector: str = "demo",
    uid: str = "",
    resource_version: str = "",
    deleting: bool = False,
) -> AzureIdentityBinding:
    return AzureIdentityBinding(
        metadata=Meta(
            name=name,
            namespace=namespace,
            uid=uid or f"uid-{namespace}-{name}",
            resource_version=resource_version,
            deletion_timestamp=since(deleting),
        ),
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
