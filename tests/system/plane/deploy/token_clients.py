"""NMI's service account on a real API server with the chart's roles and policy for federated identities."""

import contextlib
import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from podidentity.resources import PODS
from tests.support.testplane import up
from tests.support.testplane.accounts import until_permitted
from tests.support.waiting import until_sync
from tests.system.plane.deploy.helm_cluster import Cluster
from tools.chart.rendering import Object, render

AUDIENCE: Final = "api://AzureADTokenExchange"
BINDING: Final = "api://AKSIdentityBinding"
NMI: Final = "aad-pod-identity-nmi"
OWN: Final = "minting-podid"
"""The release's namespace."""
OPEN: Final = "minting-open"
"""A namespace in the list, without service accounts."""
NAMED: Final = "minting-named"
"""A namespace in the list, with the service account `web` only."""
WIDE: Final = "minting-wide"
"""A namespace in the list, with `web` only, in which another role lets NMI create every token."""
OTHER: Final = "minting-other"
"""A namespace outside the list, in which another role lets NMI create every token."""
NODE: Final = "minting-node"
NAMESPACES: Final = (OPEN, NAMED, WIDE, OTHER)
LISTED: Final = [{"name": OPEN}, *({"name": name, "serviceAccounts": ["web"]} for name in (NAMED, WIDE))]
RBAC: Final = "rbac.authorization.k8s.io"


Bound = dict[str, str]
"""The reference to an object to which a token can be bound."""


class Caller:
    """A client with a token that requests tokens of service accounts."""

    def __init__(self, plane: up.Plane, token: str) -> None:
        self.api = up.Api(plane.server, plane.ca, token)

    def refusal(self, namespace: str, spec: object, *, account: str = "web", query: str = "") -> str:
        """Return the API server's refusal, from the status on; empty if it issues the token."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token{query}"
        try:
            assert self.api("POST", path, {"spec": spec})["status"]["token"]
        except RuntimeError as refused:
            return str(refused).partition(": ")[2]
        return ""


class Minting:
    """The chart's objects, pods and a node to which tokens can be bound, and the clients."""

    def __init__(self, plane: up.Plane) -> None:
        self.plane = plane
        self.cluster = Cluster(plane)
        self._rendered = self._render()
        self._apis: list[up.Api] = []
        for namespace in (OWN, *NAMESPACES):
            self.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        self.apply(self._of_kind("ServiceAccount", name=NMI))
        for namespace in NAMESPACES:
            for account in ("web", "worker"):
                self.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": account}})
        self.node = _bound("Node", self.create("/api/v1/nodes", {"metadata": {"name": NODE}}))
        self.pods = {
            (namespace, account): self.pod(namespace, account, account)
            for namespace in NAMESPACES
            for account in ("web", "worker")
        }
        self.nmi = self.caller(OWN, NMI, self.pod(OWN, "nmi", NMI))

    def create(self, path: str, document: object) -> Any:
        return self.plane.api("POST", path, document)

    def pod(self, namespace: str, name: str, account: str, node: str = NODE) -> Bound:
        """Create a pod of this service account; with an empty *node* it is not scheduled."""
        containers = [{"name": "c", "image": "none"}]
        spec = {"serviceAccountName": account, "containers": containers, "terminationGracePeriodSeconds": 0}
        document = {"metadata": {"name": name}, "spec": spec | ({"nodeName": node} if node else {})}
        return _bound("Pod", self.create(PODS.path(namespace), document))

    def secret(self, namespace: str, name: str) -> Bound:
        return _bound("Secret", self.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}}))

    def caller(self, namespace: str, account: str, bound: Bound | None) -> Caller:
        """Return a client with a token of this service account that is bound to this object."""
        spec = {"boundObjectRef": bound} if bound else {}
        made = self.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {"spec": spec})
        caller = Caller(self.plane, made["status"]["token"])
        self._apis.append(caller.api)
        return caller

    def right(self, namespace: str = OPEN, account: str = "web") -> dict[str, Any]:
        """Return NMI's own request."""
        pod = self.pods[namespace, account]
        return {"audiences": [AUDIENCE], "expirationSeconds": 600, "boundObjectRef": pod}

    def grant(self, within: str, kind: str, name: str, **more: str) -> None:
        """Permit a user to create tokens of every service account there, as an operator can without the chart."""
        rule = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}
        role = {"apiGroup": RBAC, "kind": "Role", "name": name}
        api = f"/apis/{RBAC}/v1/namespaces/{within}"
        self.create(f"{api}/roles", {"metadata": {"name": name}, "rules": [rule]})
        document = {"metadata": {"name": name}, "roleRef": role, "subjects": [{"kind": kind, "name": name, **more}]}
        self.create(f"{api}/rolebindings", document)
        user = name if kind == "User" else f"system:serviceaccount:{more['namespace']}:{name}"
        until_permitted(self.plane, user, rule, within)

    @property
    def policy(self) -> Object:
        """Return a copy of the chart's policy."""
        (policy,) = self._of_kind("ValidatingAdmissionPolicy")
        return copy.deepcopy(policy)

    def policy_of(self, **values: Any) -> Object:
        """Return the chart's policy for further values of `federated`."""
        (policy,) = (manifest for manifest in self._render(**values) if manifest["kind"] == "ValidatingAdmissionPolicy")
        return policy

    def _render(self, **values: Any) -> list[Object]:
        return render(given={"federated": {"enabled": True, "namespaces": LISTED, **values}}, namespace=OWN)

    def apply_roles(self) -> None:
        name = self.policy["metadata"]["name"]
        kinds = {"Role": name, "RoleBinding": name, "ClusterRole": NMI, "ClusterRoleBinding": NMI}
        self.apply([manifest for kind, its_name in kinds.items() for manifest in self._of_kind(kind, name=its_name)])
        for account in (OPEN, NAMED, WIDE):
            self.until_given(self.nmi, account, self.right(account))

    def grant_more(self) -> None:
        """Additional permissions that an operator may grant to NMI."""
        for account in (WIDE, OTHER):
            self.grant(account, "ServiceAccount", NMI, namespace=OWN)
            self.until_given(self.nmi, account, self.right(account, "worker"), "worker")

    def apply_policy(self) -> None:
        self.apply([self.policy, *self._of_kind("ValidatingAdmissionPolicyBinding")])
        self.until_refused(self.nmi, OPEN, {**self.right(), "expirationSeconds": 601})

    @contextlib.contextmanager
    def changed(self, policy: Object) -> Iterator[None]:
        """Replace the chart's policy by this one. The API server may apply the change, and its reversal, later."""
        self.apply([policy])
        try:
            yield
        finally:
            self.apply([self.policy])

    def until_given(self, caller: Caller, namespace: str, spec: object, account: str = "web") -> None:
        until_sync(lambda: not caller.refusal(namespace, spec, account=account), f"given in {namespace}: {spec}")

    def until_refused(self, caller: Caller, namespace: str, spec: object, account: str = "web") -> None:
        def refused() -> bool:
            return "denied request" in caller.refusal(namespace, spec, account=account)

        until_sync(refused, f"refused in {namespace}: {spec}")

    def apply(self, objects: Sequence[Object]) -> None:
        assert objects
        self.cluster.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )

    def _of_kind(self, kind: str, *, name: str = "") -> list[Object]:
        return [
            manifest
            for manifest in self._rendered
            if manifest["kind"] == kind and name in ("", manifest["metadata"]["name"])
        ]

    def close(self) -> None:
        """Delete all objects."""
        for api in self._apis:
            api.close()
        name = self.policy["metadata"]["name"]
        gone = [f"validatingadmissionpolicy/{name}", f"validatingadmissionpolicybinding/{name}", f"node/{NODE}"]
        gone += [f"clusterrole/{NMI}", f"clusterrolebinding/{NMI}"]
        gone += [f"namespace/{namespace}" for namespace in (OWN, *NAMESPACES)]
        self.cluster.kubectl("delete", "--ignore-not-found", "--wait=false", *gone)


def _bound(kind: str, made: dict[str, Any]) -> Bound:
    return {"apiVersion": "v1", "kind": kind, "name": made["metadata"]["name"], "uid": made["metadata"]["uid"]}
