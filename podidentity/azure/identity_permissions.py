"""Kubernetes RBAC for AKS identity bindings: objects that let service accounts use an identity at the cluster's token
proxy. Pure.

Each identity has one ClusterRole, and each of its service accounts a ClusterRoleBinding. An object for another service
account or identity has another name, so applying it never replaces an existing permission.
"""

import hashlib
import re
from typing import Any, Final

from podidentity.azure.federation import BINDING_GROUP, BINDING_VERB

RBAC_GROUP: Final = "rbac.authorization.k8s.io"
ALL_IDENTITIES: Final = "*"
"""The resource of a rule for all identities."""
NAME_MAX: Final = 253
"""Characters of an object's name, as for most kinds of Kubernetes."""
_CLIENT_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_ACCOUNT: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII)


def permission_resource(client_id: str) -> str:
    """Return the resource of the permission: the client id as NMI sends it."""
    return client_id.strip().lower()


def is_grantable(client_id: str) -> bool:
    """Return whether a role may name *client_id*. Anyone with permission to create an AzureIdentity chooses its text;
    as `*` a role would let the service account use all identities.
    """
    return _CLIENT_ID.fullmatch(permission_resource(client_id)) is not None


def permission_role(client_id: str) -> dict[str, Any]:
    """Return the ClusterRole. Raise ValueError for a client id that is not a GUID."""
    if not is_grantable(client_id):
        raise ValueError("the client id is not a GUID")
    resource = permission_resource(client_id)
    return {
        "apiVersion": f"{RBAC_GROUP}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": _role_name(resource)},
        "rules": [{"apiGroups": [BINDING_GROUP], "resources": [resource], "verbs": [BINDING_VERB]}],
    }


def permission_binding(client_id: str, namespace: str, account: str) -> dict[str, Any]:
    """Return the ClusterRoleBinding of one service account. Raise ValueError for names that no object can have."""
    if not is_grantable(client_id):
        raise ValueError("the client id is not a GUID")
    if not _NAMESPACE.fullmatch(namespace) or not _ACCOUNT.fullmatch(account):
        raise ValueError("no service account can have this name")
    role = _role_name(permission_resource(client_id))
    return {
        "apiVersion": f"{RBAC_GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": _binding_name(role, namespace, account)},
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }


def _role_name(resource: str) -> str:
    return f"{BINDING_VERB}-{resource}"


def _binding_name(role: str, namespace: str, account: str) -> str:
    """Return a name that no other service account has: a namespace has no dot, and a hash follows a hyphen."""
    name = f"{role}.{namespace}.{account}"
    if len(name) <= NAME_MAX:
        return name
    return f"{role}-{hashlib.sha256(f'{namespace}/{account}'.encode()).hexdigest()}"
