"""Pods and assigned identities for tests, in the shapes that the API server sends."""

from datetime import UTC, datetime, timedelta
from typing import Any

from nmi.identity.assigned_identity import AssignedIdentity, project
from nmi.identity.decide import PodFacts
from nmi.identity.request import SelectorKind, TokenRequest
from podidentity.resources import (
    ASSIGNED,
    BINDING_LABEL,
    POD_UID_ANNOTATION,
    AzureAssignedIdentity,
    AzureAssignedIdentitySpec,
    AzureAssignedIdentityStatus,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentityBindingSpec,
    AzureIdentitySpec,
    AzurePodIdentityException,
    AzurePodIdentityExceptionSpec,
    ContainerState,
    ContainerStatus,
    Meta,
    OwnerReference,
    Pod,
    PodCondition,
    PodIP,
    PodMarks,
    PodMeta,
    PodSpec,
    PodStatus,
    Running,
    Terminated,
)

NODE = "node-1"
ADDRESS = "10.0.0.1"
"""The address of `pod()`."""
RESOURCE = "https://vault.azure.net"
CLIENT_ID = "c11e0000-0000-0000-0000-00000000000a"
OBJECT_ID = "0b000000-0000-0000-0000-000000000001"
REQUEST = TokenRequest(RESOURCE)
RUNNING = ContainerState(running=Running(started_at="2026-01-01T00:00:00Z"))
TERMINATED = ContainerState(terminated=Terminated())
SANDBOX = "PodReadyToStartContainers"
POD = PodFacts("ns", "web", "uid-1", "web")


def started_at(second: int) -> str:
    """That many seconds after a fixed moment, as the kubelet writes it."""
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")


def since(deleting: bool) -> str | None:
    """Return the deletionTimestamp of an object: a time if it is being deleted, else None."""
    return "2026-01-01T00:00:00Z" if deleting else None


def resource_id(name: str) -> str:
    return f"/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"


def by(selector: SelectorKind, value: str) -> TokenRequest:
    return TokenRequest(RESOURCE, selector, value)


def pod(
    name: str = "web",
    *,
    uid: str = "uid-1",
    label: str | None = "web",
    addresses: tuple[str, ...] = (ADDRESS,),
    namespace: str = "ns",
    phase: str = "Running",
    host_network: bool = False,
    service_account: str = "default",
    deleting: bool = False,
    terminated: bool = False,
    sandbox: bool | None = None,
    labels: dict[str, str] | None = None,
    owner: OwnerReference | None = None,
    mirror: bool = False,
    resource_version: str = "",
    started: int = 0,
) -> Pod:
    """*sandbox*: the status of the condition that its sandbox is ready; None: its kubelet reports none.

    *started*: when its container was started, in seconds after a fixed moment.
    """
    running = RUNNING if not started else ContainerState(running=Running(started_at=started_at(started)))
    own_labels = {**(labels or {}), **({BINDING_LABEL: label} if label is not None else {})}
    return Pod(
        metadata=PodMeta(
            name=name,
            namespace=namespace,
            uid=uid,
            labels=own_labels,
            resource_version=resource_version,
            deletion_timestamp=since(deleting),
            owner_references=[owner] if owner is not None else None,
            marks=PodMarks(mirror="hash") if mirror else None,
        ),
        spec=PodSpec(node_name=NODE, host_network=host_network, service_account_name=service_account),
        status=PodStatus(
            phase=phase,
            pod_ip=addresses[0] if addresses else "",
            pod_ips=[PodIP(ip=address) for address in addresses],
            container_statuses=[ContainerStatus(state=TERMINATED if terminated else running)],
            conditions=[] if sandbox is None else [PodCondition(type=SANDBOX, status=str(sandbox))],
        ),
    )


def assigned_identity(
    name: str = "id",
    *,
    binding: str | None = None,
    selector: str = "web",
    status: str = ASSIGNED,
    client_id: str = CLIENT_ID,
    pod_name: str = "web",
    pod_namespace: str = "ns",
    pod_uid: str | None = None,
    deleting: bool = False,
    namespace: str = "ns",
    annotations: dict[str, str] | None = None,
    own_annotations: dict[str, str] | None = None,
    type_: int = 0,
    nodename: str = NODE,
    resource_version: str = "1",
    own_namespace: str = "default",
    binding_namespace: str | None = None,
) -> AzureAssignedIdentity:
    """*own_namespace* is the object's own namespace. The binding's is the identity's, *namespace*, by default."""
    own: dict[str, Any] = dict(own_annotations or {})
    if pod_uid is not None:
        own[POD_UID_ANNOTATION] = pod_uid
    return AzureAssignedIdentity(
        metadata=Meta(
            name=f"{pod_name}-{pod_namespace}-{name}",
            namespace=own_namespace,
            resource_version=resource_version,
            deletion_timestamp=since(deleting),
            annotations=own or None,
        ),
        spec=AzureAssignedIdentitySpec(
            azure_identity_ref=AzureIdentity(
                metadata=Meta(name=name, namespace=namespace, annotations=annotations),
                spec=AzureIdentitySpec(type=type_, client_id=client_id, resource_id=resource_id(name)),
            ),
            azure_binding_ref=AzureIdentityBinding(
                metadata=Meta(
                    name=binding or f"{name}-binding",
                    namespace=namespace if binding_namespace is None else binding_namespace,
                ),
                spec=AzureIdentityBindingSpec(azure_identity=name, selector=selector),
            ),
            pod=pod_name,
            pod_namespace=pod_namespace,
            nodename=nodename,
        ),
        status=AzureAssignedIdentityStatus(status=status),
    )


def assigned(name: str = "id", **changes: Any) -> AssignedIdentity:
    return project(assigned_identity(name, **changes))


def exception(
    name: str = "ex",
    labels: dict[str, str] | None = None,
    *,
    namespace: str = "ns",
    deleting: bool = False,
    resource_version: str = "1",
    uid: str = "",
) -> AzurePodIdentityException:
    return AzurePodIdentityException(
        metadata=Meta(
            name=name,
            namespace=namespace,
            uid=uid,
            resource_version=resource_version,
            deletion_timestamp=since(deleting),
        ),
        spec=AzurePodIdentityExceptionSpec(pod_labels=labels),
    )


def binding(
    name: str = "b",
    identity_name: str = "id",
    *,
    selector: str = "web",
    namespace: str = "ns",
    deleting: bool = False,
    resource_version: str = "1",
    uid: str = "",
) -> AzureIdentityBinding:
    return AzureIdentityBinding(
        metadata=Meta(
            name=name,
            namespace=namespace,
            uid=uid,
            resource_version=resource_version,
            deletion_timestamp=since(deleting),
        ),
        spec=AzureIdentityBindingSpec(azure_identity=identity_name, selector=selector),
    )


def identity(
    name: str = "id",
    *,
    client_id: str = CLIENT_ID,
    namespace: str = "ns",
    type_: int = 0,
    annotations: dict[str, str] | None = None,
    deleting: bool = False,
    resource_version: str = "1",
    uid: str = "",
) -> AzureIdentity:
    return AzureIdentity(
        metadata=Meta(
            name=name,
            namespace=namespace,
            uid=uid,
            resource_version=resource_version,
            annotations=annotations,
            deletion_timestamp=since(deleting),
        ),
        spec=AzureIdentitySpec(type=type_, client_id=client_id, resource_id=resource_id(name)),
    )
