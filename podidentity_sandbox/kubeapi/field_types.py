"""The types of the fields that the server reads. A document with other types is rejected. Pure.

The real server decodes built-in kinds into typed values and rejects other values. Here a document stays as it was
received, and only the fields that the emulator reads must have their types. Null means absent.
"""

from typing import Any, Final

import msgspec

from podidentity_sandbox.kubeapi.kinds import ResourceType
from podidentity_sandbox.kubeapi.statuses import Document, bad_request, unreadable_patch

Text = str | None
Number = int | None
Texts = dict[str, str | None] | None


class _Shape(msgspec.Struct, kw_only=True, rename="camel"):
    pass


class _Metadata(_Shape):
    name: Text = None
    namespace: Text = None
    generate_name: Text = None
    uid: Text = None
    resource_version: Text = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None


class _Any(_Shape):
    kind: Text = None
    api_version: Text = None
    metadata: _Metadata | None = None


class _Condition(_Shape):
    type: Text = None
    status: Text = None


class _Port(_Shape):
    container_port: Number = None


class _Container(_Shape):
    name: Text = None
    image: Text = None
    ports: list[_Port] | None = None


class _Toleration(_Shape):
    key: Text = None


class _PodSpec(_Shape):
    node_name: Text = None
    service_account_name: Text = None
    termination_grace_period_seconds: Number = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    tolerations: list[_Toleration] | None = None


class _PodIP(_Shape):
    ip: Text = None


class _ContainerState(_Shape):
    waiting: dict[str, Any] | None = None
    terminated: dict[str, Any] | None = None


class _ContainerStatus(_Shape):
    ready: bool | None = None
    restart_count: int = 0
    state: _ContainerState | None = None


class _PodStatus(_Shape):
    phase: Text = None
    reason: Text = None
    pod_ip: Text = msgspec.field(name="podIP", default=None)
    pod_ips: list[_PodIP] | None = msgspec.field(name="podIPs", default=None)
    conditions: list[_Condition] | None = None
    container_statuses: list[_ContainerStatus] | None = None


class _Pod(_Any):
    spec: _PodSpec | None = None
    status: _PodStatus | None = None


class _NodeSpec(_Shape):
    provider_id: Text = msgspec.field(name="providerID", default=None)
    unschedulable: bool | None = None


class _NodeAddress(_Shape):
    type: Text = None
    address: Text = None


class _NodeStatus(_Shape):
    addresses: list[_NodeAddress] | None = None
    conditions: list[_Condition] | None = None
    node_info: Texts = None


class _Node(_Any):
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


class _NamespaceStatus(_Shape):
    phase: Text = None


class _Namespace(_Any):
    spec: dict[str, Any] | None = None
    status: _NamespaceStatus | None = None


class _Event(_Any):
    involved_object: Texts = None
    source: Texts = None
    count: Number = None
    type: Text = None
    reason: Text = None
    message: Text = None


class _ConfigMap(_Any):
    data: Texts = None
    binary_data: Texts = None


class _Secret(_Any):
    data: Texts = None
    string_data: Texts = None
    type: Text = None


class _EndpointPort(_Shape):
    port: Number = None


class _Subset(_Shape):
    addresses: list[_PodIP] | None = None
    ports: list[_EndpointPort] | None = None


class _Endpoints(_Any):
    subsets: list[_Subset] | None = None


class _LeaseSpec(_Shape):
    holder_identity: Text = None
    lease_duration_seconds: Number = None
    lease_transitions: Number = None


class _Lease(_Any):
    spec: _LeaseSpec | None = None


class _JsonSchema(_Shape):
    type: Text = None
    properties: "dict[str, _JsonSchema] | None" = None
    items: "_JsonSchema | None" = None
    additional_properties: "bool | _JsonSchema | None" = None
    required: list[str] | None = None
    enum: list[Any] | None = None
    pattern: Text = None
    minimum: float | None = None
    maximum: float | None = None
    min_length: Number = None
    max_length: Number = None


class _Validation(_Shape):
    schema: _JsonSchema | None = msgspec.field(name="openAPIV3Schema", default=None)


class _PrinterColumn(_Shape):
    name: str
    type: str
    json_path: str
    priority: int = 0


class _SelectableField(_Shape):
    json_path: str


class _Version(_Shape):
    name: str
    served: bool = False
    storage: bool = False
    schema: _Validation | None = None
    subresources: dict[str, Any] | None = None
    additional_printer_columns: list[_PrinterColumn] | None = None
    selectable_fields: list[_SelectableField] | None = None


class _Names(_Shape):
    plural: Text = None
    singular: Text = None
    kind: Text = None
    list_kind: Text = None
    short_names: list[str] | None = None
    categories: list[str] | None = None


class _DefinitionSpec(_Shape):
    group: Text = None
    scope: Text = None
    names: _Names | None = None
    versions: list[_Version] | None = None


class _Definition(_Any):
    spec: _DefinitionSpec | None = None


_SHAPES: Final[dict[str, type[_Any]]] = {
    "pods": _Pod,
    "nodes": _Node,
    "namespaces": _Namespace,
    "events": _Event,
    "configmaps": _ConfigMap,
    "secrets": _Secret,
    "endpoints": _Endpoints,
    "leases.coordination.k8s.io": _Lease,
    "customresourcedefinitions.apiextensions.k8s.io": _Definition,
}


def check(resource: ResourceType, document: Document, *, patched: bool = False) -> None:
    """Refuse a document whose types do not fit: with 400 as it came, with 422 if a patch made it so."""
    try:
        msgspec.convert(document, _SHAPES.get(resource.name, _Any))
    except msgspec.ValidationError as error:
        if patched:
            raise unreadable_patch(str(error)) from error
        raise bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {error}'
        ) from error
