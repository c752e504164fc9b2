"""The bytes that an API server sends for a large cluster: pages of lists and lines of watches, generated on
demand. Pure.

Each object has the fields of real ones (managedFields, volumes, tolerations, conditions, container states), since
skipping these is most of a reader's work. A pod has one identity; half of the nodes are VMs, the others instances of
scale sets with 25 nodes each.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from podidentity.resources import ASSIGNED_IDENTITIES, BINDING_LABEL, BINDINGS, IDENTITIES, NODES, PODS, Kind

NODES_OF_A_SET: Final = 25
AZURE: Final = "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/rg/providers"


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the cluster."""

    pods: int
    nodes: int
    bindings: int
    """The number of bindings, and of identities."""

    def counts(self) -> dict[str, int]:
        """The number of objects by the kind's plural."""
        return {
            PODS.plural: self.pods,
            NODES.plural: self.nodes,
            IDENTITIES.plural: self.bindings,
            BINDINGS.plural: self.bindings,
            ASSIGNED_IDENTITIES.plural: self.pods,
        }


def host_id(node: int) -> str:
    """Return the VM of the node with this number, or its instance of a scale set."""
    if node % 2 == 0:
        return f"{AZURE}/Microsoft.Compute/virtualMachines/vm-{node:06d}"
    pool, instance = divmod(node // 2, NODES_OF_A_SET)
    return f"{AZURE}/Microsoft.Compute/virtualMachineScaleSets/pool-{pool:04d}/virtualMachines/{instance}"


def identity_id(number: int) -> str:
    return f"{AZURE}/Microsoft.ManagedIdentity/userAssignedIdentities/identity-{number:05d}"


def _fields(manager: str, *paths: str) -> dict[str, Any]:
    fields: dict[str, Any] = {f"f:{path}": {".": {}, "f:value": {}, "f:other": {}} for path in paths}
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": fields},
    }


def _meta(name: str, namespace: str, uid: str, version: int, **more: Any) -> dict[str, Any]:
    scope = {"namespace": namespace} if namespace else {}
    return {
        "name": name,
        **scope,
        "uid": uid,
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **more,
    }


def identity(number: int, *, embedded: bool = False) -> dict[str, Any]:
    name = f"identity-{number:05d}"
    meta = _meta(name, "default", f"10000000-0000-4000-8000-{number:012d}", 1000 + number)
    if embedded:
        meta = {key: meta[key] for key in ("name", "namespace", "uid")}
    return {
        "apiVersion": IDENTITIES.api_version,
        "kind": IDENTITIES.name,
        "metadata": meta,
        "spec": {"type": 0, "resourceID": identity_id(number), "clientID": f"20000000-0000-4000-8000-{number:012d}"},
    }


def binding(number: int, *, embedded: bool = False) -> dict[str, Any]:
    name = f"binding-{number:05d}"
    meta = _meta(name, "default", f"30000000-0000-4000-8000-{number:012d}", 2000 + number)
    if embedded:
        meta = {key: meta[key] for key in ("name", "namespace", "uid")}
    return {
        "apiVersion": BINDINGS.api_version,
        "kind": BINDINGS.name,
        "metadata": meta,
        "spec": {"azureIdentity": f"identity-{number:05d}", "selector": f"selector-{number:05d}"},
    }


def node(number: int, *, version: int = 0) -> dict[str, Any]:
    name = f"node-{number:06d}"
    conditions = [
        {
            "type": kind,
            "status": "False",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "reason": "KubeletHasSufficientMemory",
            "message": "kubelet has sufficient memory available",
        }
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    ]
    return {
        "metadata": _meta(
            name,
            "",
            f"40000000-0000-4000-8000-{number:012d}",
            version or 3000 + number,
            labels={"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "westeurope-1"},
            managedFields=[_fields("kubelet", "podCIDR", "providerID", "taints", "unschedulable")],
        ),
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"], "providerID": f"azure://{host_id(number)}"},
        "status": {
            "capacity": {"cpu": "8", "memory": "32863960Ki", "pods": "110"},
            "conditions": conditions,
            "images": [{"names": [f"registry.invalid/image-{image}:1"], "sizeBytes": 123456789} for image in range(40)],
        },
    }


def pod(number: int, size: Size, *, version: int = 0, phase: str = "Running") -> dict[str, Any]:
    name, at = f"pod-{number:010d}", number % size.nodes
    mount = {"name": "kube-api-access", "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return {
        "metadata": _meta(
            name,
            "workloads",
            f"50000000-0000-4000-8000-{number:012d}",
            version or 10_000 + number,
            generateName="pod-",
            labels={
                "app": "web",
                BINDING_LABEL: f"selector-{number % size.bindings:05d}",
                "pod-template-hash": "x",
            },
            annotations={"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            ownerReferences=[
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-x", "uid": "u", "controller": True}
            ],
            managedFields=[
                _fields("kube-controller-manager", *(f"part-{part}" for part in range(24))),
                _fields("kubelet", *(f"part-{part}" for part in range(18))),
            ],
        ),
        "spec": {
            "volumes": [
                {"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}
            ],
            "containers": [
                {
                    "name": f"container-{container}",
                    "image": "registry.invalid/team/image:1.2.3",
                    "env": [{"name": f"VARIABLE_{variable}", "value": "some value"} for variable in range(10)],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}},
                    "volumeMounts": [mount],
                    "terminationMessagePath": "/dev/termination-log",
                }
                for container in range(2)
            ],
            "restartPolicy": "Always",
            "serviceAccountName": "default",
            "nodeName": f"node-{at:06d}",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300}]
            * 2,
        },
        "status": {
            "phase": phase,
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "hostIP": "10.0.0.4",
            "podIP": "10.1.0.5",
            "podIPs": [{"ip": "10.1.0.5"}],
            "startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": [
                {
                    "name": f"container-{container}",
                    "state": state,
                    "lastState": {},
                    "ready": True,
                    "restartCount": 0,
                    "image": "registry.invalid/team/image:1.2.3",
                    "imageID": "registry.invalid/team/image@sha256:" + "0" * 64,
                    "containerID": "containerd://" + "0" * 64,
                }
                for container in range(2)
            ],
        },
    }


def assigned(number: int, size: Size, *, version: int = 0, status: str = "Assigned") -> dict[str, Any]:
    """Return the object that MIC writes for the pod with this number, as the watch reports it."""
    chosen, at = number % size.bindings, f"node-{number % size.nodes:06d}"
    return {
        "apiVersion": ASSIGNED_IDENTITIES.api_version,
        "kind": ASSIGNED_IDENTITIES.name,
        "metadata": _meta(
            f"pod-{number:010d}-workloads-identity-{chosen:05d}",
            "default",
            f"60000000-0000-4000-8000-{number:012d}",
            version or 5_000_000 + number,
            annotations={
                "aadpodidentity.k8s.io/pod-uid": f"50000000-0000-4000-8000-{number:012d}",
                "aadpodidentity.k8s.io/attached-by": "mic",
            },
            finalizers=["azureassignedidentity.finalizers.aadpodidentity.k8s.io"],
            labels={"nodename": at},
            managedFields=[_fields("aad-pod-identity-mic", *(f"part-{part}" for part in range(8)))],
        ),
        "spec": {
            "azureBindingRef": binding(chosen, embedded=True),
            "azureIdentityRef": identity(chosen, embedded=True),
            "nodename": at,
            "pod": f"pod-{number:010d}",
            "podNamespace": "workloads",
        },
        "status": {"availableReplicas": 1, "status": status},
    }


def document(kind: Kind[Any], number: int, size: Size) -> dict[str, Any]:
    match kind.plural:
        case PODS.plural:
            return pod(number, size)
        case NODES.plural:
            return node(number)
        case IDENTITIES.plural:
            return identity(number)
        case BINDINGS.plural:
            return binding(number)
        case _:
            return assigned(number, size)


def encoded(value: Any) -> bytes:
    """Encode as Go does: without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def pages(kind: Kind[Any], size: Size, page_size: int) -> Iterator[bytes]:
    """Yield the bodies of a list page by page: all of them together would be a gigabyte."""
    total = size.counts()[kind.plural]
    for begin in range(0, max(total, 1), page_size):
        end = min(begin + page_size, total)
        items = b",".join(encoded(document(kind, number, size)) for number in range(begin, end))
        going_on = f',"continue":"from-{end}","remainingItemCount":{total - end}' if end < total else ""
        head = f'{{"kind":"{kind.name}List","apiVersion":"{kind.api_version}",'
        yield f'{head}"metadata":{{"resourceVersion":"9000000"{going_on}}},"items":['.encode() + items + b"]}\n"


def line(type_: str, value: dict[str, Any], kind: Kind[Any]) -> bytes:
    """Return one event of a watch."""
    return encoded({"type": type_, "object": {"kind": kind.name, "apiVersion": kind.api_version, **value}})
