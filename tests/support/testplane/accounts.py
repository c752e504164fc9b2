"""Service accounts with given permissions on the real API server, and pods that no kubelet runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from podidentity.resources import PODS
from tests.support.testplane.up import Plane
from tests.support.waiting import until_sync

RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNTS: Final = "/api/v1/namespaces/default/serviceaccounts"
REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


def place_pod(
    plane: Plane, name: str, node: str, labels: Mapping[str, str], *flags: str, address: str = "", **spec: Any
) -> None:
    """Create a pod on *node*, whose container has the first word of its name. With *address* it runs and is ready."""
    container = {"name": name.partition("-")[0], "image": "i", "args": list(flags)}
    usual = {"nodeName": node, "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0}
    document = {"metadata": {"name": name, "labels": labels}, "spec": {**usual, "containers": [container], **spec}}
    plane.api("POST", PODS.path("default"), document)
    if address:
        ready = {"type": "Ready", "status": "True"}
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}
        path = PODS.path("default", name, "status")
        plane.api("PATCH", path, {"status": status}, content_type="application/merge-patch+json")


def until_permitted(plane: Plane, user: str, rule: Mapping[str, Any], namespace: str = "") -> None:
    """Wait until the server's authorizer, which follows roles and bindings by watches, permits what the *rule* states.

    An empty *namespace* means all namespaces. Groups of *user*, which is no service account's token, do not count.
    """
    resource, _, subresource = rule["resources"][0].partition("/")
    attributes = {
        "verb": rule["verbs"][0],
        "group": rule["apiGroups"][0],
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
        "name": next(iter(rule.get("resourceNames", ())), ""),
    }
    review = {"spec": {"user": user, "resourceAttributes": attributes}}
    until_sync(lambda: plane.api("POST", REVIEWS, review)["status"]["allowed"], f"{user} may {attributes}")


def create_account(plane: Plane, name: str, rules: Sequence[dict[str, Any]]) -> str:
    """Create a service account in `default` with a ClusterRole of its name and these rules, which are then in force.

    Return its kubeconfig.
    """
    plane.api("POST", f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": list(rules)})
    plane.api("POST", ACCOUNTS, {"metadata": {"name": name}})
    binding = {
        "metadata": {"name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
    }
    plane.api("POST", f"{RBAC}/clusterrolebindings", binding)
    for rule in [rule for rule in rules if rule.get("resources")][:1]:
        until_permitted(plane, f"system:serviceaccount:default:{name}", rule)
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
