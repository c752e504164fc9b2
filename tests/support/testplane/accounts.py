"""Service accounts with given permissions on the real API server."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.waiting import until_sync
from tests.support.testplane.up import Plane

RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNTS: Final = "/api/v1/namespaces/default/serviceaccounts"
REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


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
    for rule in [each for each in rules if each.get("resources")][:1]:
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
