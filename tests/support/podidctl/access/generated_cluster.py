"""Generated clusters of any size: the objects that the access review reads, and Azure's responses. Deterministic.

One node in ten is a VM and the others are in scale sets of up to 50. One pod in twenty is in the node's network, one in
fifty has no binding. Each namespace has a Role for its developers; some bindings use wildcards.
"""

from typing import Final

from mic.azure.identities import BOTH, USER, Attached, HostIdentities
from podidctl.access.projections import ReviewedPod
from podidctl.facts.kinds import PlacedNode
from podidctl.facts.model import AzureState, Facts
from podidctl.facts.rbac import Rbac
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.resources import GROUP, AzureAssignedIdentity, AzureIdentity
from tests.support import objects
from tests.support.podidctl.access.small_cluster import (
    READ_AT,
    SUBSCRIPTION,
    binding,
    bound,
    exception,
    identity,
    identity_id,
    nmi,
    nmi_pod,
    node,
    owned_by,
    pod,
    rbac,
    role,
    rule,
)

SCALE_SET_NODES: Final = 50
NAMESPACES: Final = 40


def generated_cluster(pods: int = 5000, identities: int = 300, nodes: int = 500) -> Facts:
    """Return a cluster of this size, with Azure's responses."""
    the_nodes = [_node(number) for number in range(nodes)]
    the_identities = [_identity(number) for number in range(identities)]
    bindings = [binding(identity_.metadata.name, identity_.metadata.namespace) for identity_ in the_identities]
    the_pods = [_pod(number, nodes, the_identities) for number in range(pods)]
    assigned = [
        objects.assigned(pod_, the_identities[number % identities], bindings[number % identities])
        for number, pod_ in enumerate(the_pods)
        if number % 50
    ]
    names = [the_node.metadata.name for the_node in the_nodes]
    return Facts(
        now=READ_AT,
        identities=tuple(the_identities),
        bindings=tuple(bindings),
        exceptions=(exception("team-0", app="app-000"),),
        assigned=tuple(assigned),
        pods=(*the_pods, *map(nmi_pod, names)),
        nodes=tuple(the_nodes),
        nmi=tuple(map(nmi, names)),
        mic=(),
        rbac=_rbac(),
        azure=AzureState(_azure(the_nodes, assigned), identity_id("kubelet")),
    )


def _node(number: int) -> PlacedNode:
    name, pool = f"node-{number:04}", f"pool-{number // SCALE_SET_NODES}"
    host = f"virtualMachines/{name}" if number % 10 == 0 else f"virtualMachineScaleSets/{pool}/virtualMachines/{number}"
    return node(name, f"{SUBSCRIPTION}/nodes/providers/Microsoft.Compute/{host}")


def _identity(number: int) -> AzureIdentity:
    kind = {7: 1, 9: 3}.get(number % 10, 0)
    client_id = f"00000000-0000-0000-0000-{number:012}"
    return identity(f"identity-{number:03}", f"team-{number % NAMESPACES}", kind, client_id=client_id)


def _pod(number: int, nodes: int, identities: list[AzureIdentity]) -> ReviewedPod:
    its = identities[number % len(identities)].metadata
    app = f"app-{number % len(identities):03}"
    return pod(
        f"{app}-5d9f-{number:05}",
        its.namespace,
        label=its.name if number % 50 else "none",
        node=f"node-{number * 7 % nodes:04}",
        account=app,
        labels={"app": app, "pod-template-hash": "5d9f"},
        owner=owned_by("ReplicaSet", f"{app}-5d9f"),
        host_network=number % 20 == 0,
        privileged=number % 90 == 1,
    )


def _rbac() -> Rbac:
    teams = [f"team-{number}" for number in range(NAMESPACES)]
    developer = (rule("get list create update", "apps", "deployments"), rule("create", "", "pods/exec"))
    return rbac(
        *(role("developer", *developer, namespace=team) for team in teams),
        cluster=(
            role("cluster-admin", rule("*", "*", "*")),
            role("binder", rule("create patch", GROUP, "azureidentitybindings")),
            role("nmi", rule("get", "", "secrets")),
        ),
        bindings=(
            *(bound("developer", f"Group {team}", kind="Role", namespace=team, name="developers") for team in teams),
            bound("cluster-admin", "Group system:masters", name="admins"),
            bound("cluster-admin", "Group platform", name="platform"),
            bound("binder", "ServiceAccount ci/deployer", name="pipeline"),
            bound("nmi", "ServiceAccount kube-system/default"),
        ),
    )


def _azure(nodes: list[PlacedNode], assigned: list[AzureAssignedIdentity]) -> dict[str, HostIdentities]:
    hosts = {node_.metadata.name: parse_provider_id(node_.spec.provider_id) for node_ in nodes}
    attached: dict[str, dict[str, Attached]] = {}
    for number, host in enumerate(hosts.values()):
        if host is not None:
            own = attached.setdefault(host.key, {})
            kubelet, addon = identity_id("kubelet"), identity_id(f"addon-{number % 3}")
            own |= {text.lower(): Attached(text, "") for text in (kubelet, addon)}
    for object_ in assigned:
        host, spec = hosts[object_.spec.nodename], object_.spec.azure_identity_ref.spec
        if host is not None and spec.resource_id:
            attached[host.key][spec.resource_id.lower()] = Attached(spec.resource_id, spec.client_id)
    return {
        key: HostIdentities(type=BOTH if number % 4 == 0 else USER, attached=own)
        for number, (key, own) in enumerate(sorted(attached.items()))
    }
