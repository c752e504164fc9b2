"""Service accounts with given permissions on the real API server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.testplane.up import Plane

RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNTS: Final = "/api/v1/namespaces/default/serviceaccounts"


def create_account(plane: Plane, name: str, rules: Sequence[dict[str, Any]]) -> str:
    """Create a service account in `default` with a ClusterRole of its name and these rules. Return its kubeconfig."""
    plane.api("POST", f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": list(rules)})
    plane.api("POST", ACCOUNTS, {"metadata": {"name": name}})
    binding = {
        "metadata": {"name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
    }
    plane.api("POST", f"{RBAC}/clusterrolebindings", binding)
    token = plane.api("POST", f"{ACCOUNTS}/{name}/token", {"spec": {}})["status"]["token"]
    cluster = {"server": plane.server, "certificate-authority": str(Path(plane.directory, "ca.crt"))}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps(config)
