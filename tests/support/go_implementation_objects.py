"""Objects that the programs of the Go implementation leave on a cluster. reference: pkg/mic/mic.go, pkg/crd/crd.go."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from podidentity.resources import ASSIGNED_IDENTITIES, FINALIZER
from tests.support.go_implementation_lock import ANNOTATION

LOCK: Final = "aad-pod-identity-mic"
RECORD: Final = "aad-pod-identity-config"


def assignment(pod: str, node: str, identity: Mapping[str, Any], binding: Mapping[str, Any]) -> dict[str, Any]:
    """Return the AzureAssignedIdentity of a pod in the namespace default."""
    return {
        "apiVersion": ASSIGNED_IDENTITIES.api_version,
        "kind": ASSIGNED_IDENTITIES.name,
        "metadata": {
            "name": f"{pod}-default-{identity['metadata']['name']}",
            "namespace": "default",
            "labels": {"nodename": node, "podname": pod},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "azureIdentityRef": identity,
            "azureBindingRef": binding,
            "pod": pod,
            "podNamespace": "default",
            "nodename": node,
            "replicas": 1,
        },
        "status": {"status": "Assigned", "availableReplicas": 1},
    }


def record(namespace: str) -> dict[str, Any]:
    """Return the record of the type upgrade."""
    metadata = {"name": RECORD, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"type-upgrade-status": "v1.8.17"}}


def lock(namespace: str) -> dict[str, Any]:
    """Return the lock of a MIC that has ended."""
    ended = (datetime.now(UTC) - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    held = {
        "holderIdentity": f"{LOCK}-7d9f-x2x4z",
        "leaseDurationSeconds": 2,
        "acquireTime": ended,
        "renewTime": ended,
        "leaderTransitions": 3,
    }
    metadata = {"name": LOCK, "namespace": namespace, "annotations": {ANNOTATION: json.dumps(held)}}
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
