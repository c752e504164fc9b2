"""Generated clusters of any size: the objects that the access review reads, and Azure's responses. Deterministic.

One node in ten is a VM and the others are in scale sets of up to 50. One pod in twenty is in the node's network, one in
fifty has no binding. Each namespace has a Role for its developers; some bindings use wildcards.
"""

from typing import Final

from mic.azure.identities import BOTH, USER, Attached, HostIdentities
from podidctl.access.cluster_objects import AzureState, ClusterObjects, Rbac
from podidctl.access.projections import (
    ContainerSecurity,
    PolicyRule,
    ReviewedContainer,
    ReviewedPod,
    ReviewedPodSpec,
    Role,
    RoleBinding,
    RoleReference,
    Subject,
)
from podidctl.diagnosis.daemons import Daemon, DaemonCondition, DaemonContainer, DaemonSpec, DaemonStatus
from podidctl.diagnosis.node_placement import PlacedNode, PlacedNodeSpec
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.resources import (
    ASSIGNED,
    BINDING_LABEL,
    GROUP,
    NODENAME_LABEL,
    AzureAssignedIdentity,
    AzureAssignedIdentitySpec,
    AzureAssignedIdentityStatus,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentityBindingSpec,
    AzureIdentitySpec,
    AzurePodIdentityException,
    AzurePodIdentityExceptionSpec,
    BareMeta,
    Meta,
    OwnerReference,
    PodMeta,
    PodStatus,
    SecretReference,
    nodename_label,
)

READ_AT: Final = "2026-11-27T12:00:00Z"
SUBSCRIPTION: Final = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups"
SCALE_SET_NODES: Final = 50
NAMESPACES: Final = 40


def identity_id(name: str) -> str:
    return f"{SUBSCRIPTION}/identities/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"


def generated_cluster(pods: int = 5000, identities: int = 300, nodes: int = 500) -> ClusterObjects:
    """Return a cluster of this size, with Azure's responses."""
    the_nodes = [_node(number) for number in range(nodes)]
    the_identities = [_identity(number) for number in range(identities)]
    bindings = [_binding(each) for each in the_identities]
    the_pods = [_pod(number, nodes, the_identities) for number in range(pods)]
    the_pods += [_daemon_pod(number) for number in range(nodes)]
    assigned = [
        assigned_identity(pod, the_identities[number % identities], bindings[number % identities])
        for number, pod in enumerate(the_pods[:pods])
        if pod.binding_label and number % 50
    ]
    return ClusterObjects(
        read_at=READ_AT,
        identities=tuple(the_identities),
        bindings=tuple(bindings),
        exceptions=(_exception("team-0"),),
        assigned=tuple(assigned),
        pods=tuple(the_pods),
        nodes=tuple(the_nodes),
        nmi=tuple(_nmi(number) for number in range(nodes)),
        mic=(),
        rbac=_rbac(),
        azure=AzureState(_azure(the_nodes, assigned), identity_id("kubelet")),
    )


def _team(number: int) -> str:
    return f"team-{number % NAMESPACES}"


def _node(number: int) -> PlacedNode:
    name = f"node-{number:04}"
    compute = f"azure://{SUBSCRIPTION}/nodes/providers/Microsoft.Compute"
    pool = f"pool-{number // SCALE_SET_NODES}"
    host = f"virtualMachines/{name}" if number % 10 == 0 else f"virtualMachineScaleSets/{pool}/virtualMachines/{number}"
    return PlacedNode(metadata=BareMeta(name=name), spec=PlacedNodeSpec(provider_id=f"{compute}/{host}"))


def _identity(number: int) -> AzureIdentity:
    kind = {7: 1, 9: 3}.get(number % 10, 0)
    name, team = f"identity-{number:03}", _team(number)
    return AzureIdentity(
        metadata=Meta(name=name, namespace=team, uid=f"uid-identity-{number}"),
        spec=AzureIdentitySpec(
            type=kind,
            resource_id=identity_id(name) if kind == 0 else "",
            client_id=f"00000000-0000-0000-0000-{number:012}",
            client_password=SecretReference(name=f"secret-{number}", namespace=team) if kind == 1 else None,
            tenant_id="00000000-0000-0000-0000-0000000000ff" if kind else "",
        ),
    )


def _binding(identity: AzureIdentity) -> AzureIdentityBinding:
    name, namespace = identity.metadata.name, identity.metadata.namespace
    return AzureIdentityBinding(
        metadata=Meta(name=name, namespace=namespace, uid=f"uid-binding-{name}"),
        spec=AzureIdentityBindingSpec(azure_identity=name, selector=name),
    )


def _pod(number: int, nodes: int, identities: list[AzureIdentity]) -> ReviewedPod:
    identity = identities[number % len(identities)]
    app = f"app-{number % len(identities):03}"
    owner = OwnerReference(api_version="apps/v1", kind="ReplicaSet", name=f"{app}-5d9f", controller=True)
    privileged = ReviewedContainer(security_context=ContainerSecurity(privileged=number % 90 == 1))
    label = identity.metadata.name if number % 50 else "none"
    return ReviewedPod(
        metadata=PodMeta(
            name=f"{app}-5d9f-{number:05}",
            namespace=identity.metadata.namespace,
            uid=f"uid-pod-{number}",
            labels={BINDING_LABEL: label, "app": app, "pod-template-hash": "5d9f"},
            owner_references=[owner],
        ),
        spec=ReviewedPodSpec(
            node_name=f"node-{number * 7 % nodes:04}",
            service_account_name=app,
            host_network=number % 20 == 0,
            containers=[privileged],
        ),
        status=PodStatus(phase="Running", pod_ip=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"),
    )


def _daemon_pod(number: int) -> ReviewedPod:
    owner = OwnerReference(api_version="apps/v1", kind="DaemonSet", name="aad-pod-identity-nmi", controller=True)
    return ReviewedPod(
        metadata=PodMeta(
            name=f"nmi-{number:04}",
            namespace="kube-system",
            uid=f"uid-nmi-{number}",
            labels={"component": "nmi"},
            owner_references=[owner],
        ),
        spec=ReviewedPodSpec(node_name=f"node-{number:04}", service_account_name="nmi", host_network=True),
        status=PodStatus(phase="Running"),
    )


def _nmi(number: int) -> Daemon:
    pod = _daemon_pod(number)
    return Daemon(
        metadata=pod.metadata,
        spec=DaemonSpec(
            node_name=pod.spec.node_name,
            host_network=True,
            service_account_name="nmi",
            containers=[DaemonContainer(name="nmi", image="nmi:1", args=["--federated-identities"])],
        ),
        status=DaemonStatus(phase="Running", conditions=[DaemonCondition(type="Ready", status="True")]),
    )


def assigned_identity(
    pod: ReviewedPod, identity: AzureIdentity, binding: AzureIdentityBinding, status: str = ASSIGNED
) -> AzureAssignedIdentity:
    """Return the object as MIC writes it."""
    namespaced = identity.namespaced
    return AzureAssignedIdentity(
        metadata=Meta(
            name=f"{pod.metadata.name}-{pod.metadata.namespace}-{identity.metadata.name}",
            namespace=identity.metadata.namespace if namespaced else "default",
            labels={NODENAME_LABEL: nodename_label(pod.spec.node_name)},
        ),
        spec=AzureAssignedIdentitySpec(
            azure_identity_ref=identity,
            azure_binding_ref=binding,
            pod=pod.metadata.name,
            pod_namespace=pod.metadata.namespace,
            nodename=pod.spec.node_name,
        ),
        status=AzureAssignedIdentityStatus(status=status),
    )


def _exception(namespace: str) -> AzurePodIdentityException:
    return AzurePodIdentityException(
        metadata=Meta(name="legacy", namespace=namespace),
        spec=AzurePodIdentityExceptionSpec(pod_labels={"app": "app-000"}),
    )


def _rbac() -> Rbac:
    teams = [f"team-{number}" for number in range(NAMESPACES)]
    developer = [
        PolicyRule(verbs=["get", "list", "create", "update"], api_groups=["apps"], resources=["deployments"]),
        PolicyRule(verbs=["create"], api_groups=[""], resources=["pods/exec"]),
    ]
    binder = PolicyRule(verbs=["create", "patch"], api_groups=[GROUP], resources=["azureidentitybindings"])
    everything = PolicyRule(verbs=["*"], api_groups=["*"], resources=["*"])
    secrets = PolicyRule(verbs=["get"], api_groups=[""], resources=["secrets"])
    return Rbac(
        roles=tuple(Role(metadata=BareMeta(name="developer", namespace=each), rules=developer) for each in teams),
        cluster_roles=(
            Role(metadata=BareMeta(name="cluster-admin"), rules=[everything]),
            Role(metadata=BareMeta(name="binder"), rules=[binder]),
            Role(metadata=BareMeta(name="nmi"), rules=[secrets]),
        ),
        role_bindings=tuple(_bound("developers", "Role", "developer", "Group", each, namespace=each) for each in teams),
        cluster_role_bindings=(
            _bound("admins", "ClusterRole", "cluster-admin", "Group", "system:masters"),
            _bound("platform", "ClusterRole", "cluster-admin", "Group", "platform"),
            _bound("pipeline", "ClusterRole", "binder", "ServiceAccount", "deployer", of="ci"),
            _bound("nmi", "ClusterRole", "nmi", "ServiceAccount", "nmi", of="kube-system"),
        ),
    )


def _bound(
    name: str, kind: str, role: str, subject: str, who: str, *, namespace: str = "", of: str = ""
) -> RoleBinding:
    return RoleBinding(
        metadata=BareMeta(name=name, namespace=namespace),
        subjects=[Subject(kind=subject, name=who, namespace=of)],
        role_ref=RoleReference(kind=kind, name=role),
    )


def _azure(nodes: list[PlacedNode], assigned: list[AzureAssignedIdentity]) -> dict[str, HostIdentities]:
    hosts = {each.metadata.name: parse_provider_id(each.spec.provider_id) for each in nodes}
    attached: dict[str, dict[str, Attached]] = {}
    for number, host in enumerate(hosts.values()):
        if host is not None:
            own = attached.setdefault(host.key, {})
            kubelet, addon = identity_id("kubelet"), identity_id(f"addon-{number % 3}")
            own |= {each.lower(): Attached(each, "") for each in (kubelet, addon)}
    for each in assigned:
        host, spec = hosts[each.spec.nodename], each.spec.azure_identity_ref.spec
        if host is not None and spec.resource_id:
            attached[host.key][spec.resource_id.lower()] = Attached(spec.resource_id, spec.client_id)
    return {
        key: HostIdentities(type=BOTH if number % 4 == 0 else USER, attached=own)
        for number, (key, own) in enumerate(sorted(attached.items()))
    }
