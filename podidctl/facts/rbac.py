"""Roles and their bindings, and their projections."""

from dataclasses import dataclass
from typing import Final

from podidctl.facts.workloads import LabelSelector
from podidentity.resources import BareMeta, Kind, Resource, Wire

RBAC_GROUP: Final = "rbac.authorization.k8s.io"


class PolicyRule(Wire, frozen=True):
    """One rule of a role. Hashable, so that repeated rules count once."""

    verbs: tuple[str, ...] | None = None
    api_groups: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None
    resource_names: tuple[str, ...] | None = None


class AggregationRule(Wire, frozen=True):
    cluster_role_selectors: list[LabelSelector] | None = None


class Role(Resource, frozen=True):
    """A Role or a ClusterRole."""

    metadata: BareMeta = BareMeta()
    rules: list[PolicyRule] | None = None
    aggregation_rule: AggregationRule | None = None


class Subject(Wire, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str = ""


class RoleReference(Wire, frozen=True):
    kind: str = ""
    name: str = ""


class RoleBinding(Resource, frozen=True):
    """A RoleBinding or a ClusterRoleBinding."""

    metadata: BareMeta = BareMeta()
    subjects: list[Subject] | None = None
    role_ref: RoleReference = RoleReference()


ROLES: Final = Kind("Role", "roles", Role, RBAC_GROUP)
CLUSTER_ROLES: Final = Kind("ClusterRole", "clusterroles", Role, RBAC_GROUP, namespaced=False)
ROLE_BINDINGS: Final = Kind("RoleBinding", "rolebindings", RoleBinding, RBAC_GROUP)
CLUSTER_ROLE_BINDINGS: Final = Kind(
    "ClusterRoleBinding", "clusterrolebindings", RoleBinding, RBAC_GROUP, namespaced=False
)


@dataclass(frozen=True, slots=True)
class Rbac:
    """Roles and their bindings."""

    roles: tuple[Role, ...] = ()
    cluster_roles: tuple[Role, ...] = ()
    role_bindings: tuple[RoleBinding, ...] = ()
    cluster_role_bindings: tuple[RoleBinding, ...] = ()
