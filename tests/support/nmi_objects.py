"""Objects as NMI reads them, for tests: those of tests/support/objects.py with other usual content.

By default they are in the namespace `ns`, where the running pod `web` at ADDRESS on NODE uses the identity `id`.
"""

from typing import Any, Final

from nmi.identity.assigned_identity import AssignedIdentity, project
from nmi.identity.decide import PodFacts
from nmi.identity.request import SelectorKind, TokenRequest
from podidentity.resources import (
    ASSIGNED,
    POD_UID_ANNOTATION,
    AzureAssignedIdentity,
    AzureAssignedIdentitySpec,
    AzureAssignedIdentityStatus,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    AzurePodIdentityExceptionSpec,
    Meta,
    Pod,
)
from tests.support import objects

NODE: Final = "node-1"
ADDRESS: Final = "10.0.0.1"
RESOURCE: Final = "https://vault.azure.net"
CLIENT_ID: Final = "c11e0000-0000-0000-0000-00000000000a"
OTHER_ID: Final = "c11e0000-0000-0000-0000-00000000000b"
OBJECT_ID: Final = "0b000000-0000-0000-0000-000000000001"
REQUEST: Final = TokenRequest(RESOURCE)
POD: Final = PodFacts("ns", "web", "uid-1", "web")


def resource_id(name: str) -> str:
    return f"/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"


def by(selector: SelectorKind, value: str) -> TokenRequest:
    return TokenRequest(RESOURCE, selector, value)


def pod(name: str = "web", **changes: Any) -> Pod:
    usual = {"namespace": "ns", "node": NODE, "label": "web", "uid": "uid-1", "addresses": (ADDRESS,)}
    return objects.pod(name, **usual | changes)


def identity(name: str = "id", **changes: Any) -> AzureIdentity:
    usual = {"namespace": "ns", "client_id": CLIENT_ID, "resource_id": resource_id(name), "resource_version": "1"}
    return objects.identity(name, **usual | changes)


def binding(name: str = "b", identity_name: str = "id", **changes: Any) -> AzureIdentityBinding:
    usual = {"namespace": "ns", "identity": identity_name, "selector": "web", "resource_version": "1"}
    return objects.binding(name, **usual | changes)


def assigned_identity(
    name: str = "id",
    *,
    binding: str | None = None,
    selector: str = "web",
    status: str = ASSIGNED,
    pod_name: str = "web",
    pod_namespace: str = "ns",
    pod_uid: str | None = None,
    deleting: bool = False,
    namespace: str = "ns",
    own_annotations: dict[str, str] | None = None,
    nodename: str = NODE,
    own_namespace: str = "default",
    binding_namespace: str | None = None,
    **changes: Any,
) -> AzureAssignedIdentity:
    """*own_namespace*: the object's own. *namespace*: the identity's, and by default the binding's. *changes*: of the
    identity.
    """
    own = {**(own_annotations or {}), **({POD_UID_ANNOTATION: pod_uid} if pod_uid is not None else {})}
    return AzureAssignedIdentity(
        metadata=Meta(
            name=f"{pod_name}-{pod_namespace}-{name}",
            namespace=own_namespace,
            resource_version="1",
            deletion_timestamp=objects.since(deleting),
            annotations=own or None,
        ),
        spec=AzureAssignedIdentitySpec(
            azure_identity_ref=identity(name, namespace=namespace, **changes),
            azure_binding_ref=objects.binding(
                binding or f"{name}-binding",
                namespace=namespace if binding_namespace is None else binding_namespace,
                identity=name,
                selector=selector,
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
            deletion_timestamp=objects.since(deleting),
        ),
        spec=AzurePodIdentityExceptionSpec(pod_labels=labels),
    )
