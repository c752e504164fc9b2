"""Projections of pods and RBAC objects with the fields that only the access review reads."""

from typing import Final

import msgspec

from podidctl.facts.kinds import VariableContainer, VariablePod, VariablePodSpec
from podidentity.resources import BareMeta, Kind, Resource, Wire

RBAC_GROUP: Final = "rbac.authorization.k8s.io"


class Capabilities(Wire, frozen=True):
    add: list[str] | None = None
    drop: list[str] | None = None


class WindowsOptions(Wire, frozen=True):
    host_process: bool | None = None


class ContainerSecurity(Wire, frozen=True):
    """The security context of a container, or the Windows options in that of a pod."""

    privileged: bool | None = None
    capabilities: Capabilities | None = None
    proc_mount: str | None = None
    windows_options: WindowsOptions | None = None

    @property
    def added(self) -> frozenset[str]:
        """Added capabilities, without the prefix `CAP_`."""
        return _capability_names(self.capabilities.add) if self.capabilities is not None else frozenset()

    @property
    def dropped(self) -> frozenset[str]:
        return _capability_names(self.capabilities.drop) if self.capabilities is not None else frozenset()

    @property
    def is_host_process(self) -> bool:
        return self.windows_options is not None and bool(self.windows_options.host_process)


def _capability_names(names: list[str] | None) -> frozenset[str]:
    return frozenset(name.upper().removeprefix("CAP_") for name in names or ())


class VolumeMount(Wire, frozen=True):
    name: str = ""
    read_only: bool | None = None


class ReviewedContainer(VariableContainer, frozen=True):
    security_context: ContainerSecurity | None = None
    volume_mounts: list[VolumeMount] | None = None


class HostPath(Wire, frozen=True):
    path: str = ""


class Volume(Wire, frozen=True):
    name: str = ""
    host_path: HostPath | None = None


class ReviewedPodSpec(VariablePodSpec, frozen=True):
    host_pid: bool = msgspec.field(name="hostPID", default=False)
    host_ipc: bool = msgspec.field(name="hostIPC", default=False)
    host_users: bool | None = None
    """False in a user namespace of its own."""
    security_context: ContainerSecurity | None = None
    containers: list[ReviewedContainer] | None = None
    init_containers: list[ReviewedContainer] | None = None
    ephemeral_containers: list[ReviewedContainer] | None = None
    volumes: list[Volume] | None = None

    @property
    def all_containers(self) -> list[ReviewedContainer]:
        return [*(self.containers or ()), *(self.init_containers or ()), *(self.ephemeral_containers or ())]


class ReviewedPod(VariablePod, frozen=True):
    """A pod with the fields that can give it access to its host."""

    spec: ReviewedPodSpec = ReviewedPodSpec()


class PolicyRule(Wire, frozen=True):
    """One rule of a role. Hashable, so that repeated rules count once."""

    verbs: tuple[str, ...] | None = None
    api_groups: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None
    resource_names: tuple[str, ...] | None = None


class LabelRequirement(Wire, frozen=True):
    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class LabelSelector(Wire, frozen=True):
    match_labels: dict[str, str] | None = None
    match_expressions: list[LabelRequirement] | None = None


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


REVIEWED_PODS: Final = Kind("Pod", "pods", ReviewedPod)
ROLES: Final = Kind("Role", "roles", Role, RBAC_GROUP)
CLUSTER_ROLES: Final = Kind("ClusterRole", "clusterroles", Role, RBAC_GROUP, namespaced=False)
ROLE_BINDINGS: Final = Kind("RoleBinding", "rolebindings", RoleBinding, RBAC_GROUP)
CLUSTER_ROLE_BINDINGS: Final = Kind(
    "ClusterRoleBinding", "clusterrolebindings", RoleBinding, RBAC_GROUP, namespaced=False
)
