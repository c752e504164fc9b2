"""Objects of the access review, and a small cluster with three namespaces, one VM and one scale set.

`shop/web` uses identity shop/payments, `shop/report` the federated identity shop/reports, and `ops/robot` the service
principal ops/legacy; `ops/agent` is privileged. On Azure the hosts also have the kubelet's identity, and the VM has one
that nothing explains.
"""

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console

from mic.azure.identities import BOTH, USER, Attached, HostIdentities
from podidctl.access.grants import live_pods
from podidctl.access.outputs import AccessOutput, render
from podidctl.access.policy import PolicyResult, RuleResult, evaluate, parse_policy
from podidctl.access.projections import ReviewedPod
from podidctl.access.review import review
from podidctl.access.schema import AccessReview, Grant, PodAccess
from podidctl.facts.kinds import Daemon, PlacedNode, PlacedNodeSpec
from podidctl.facts.model import AzureState, Facts, ReadFailure, readable
from podidctl.facts.rbac import PolicyRule, Rbac, Role, RoleBinding, RoleReference, Subject
from podidctl.facts.settings import genuine_mic, genuine_nmi
from podidctl.reading.objects import with_lists
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.resources import (
    BINDING_LABEL,
    GROUP,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    BareMeta,
    OwnerReference,
    SecretReference,
)
from tests.support import nmi_objects, objects
from tests.support.podidctl import doctor_inputs

READ_AT: Final = datetime(2026, 11, 27, 12, tzinfo=UTC)
SUBSCRIPTION: Final = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups"


def identity_id(name: str) -> str:
    return f"{SUBSCRIPTION}/identities/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"


VM = f"{SUBSCRIPTION}/nodes/providers/Microsoft.Compute/virtualMachines/vm-0"
SCALE_SET = f"{SUBSCRIPTION}/nodes/providers/Microsoft.Compute/virtualMachineScaleSets/pool"
KUBELET, STRANGE = identity_id("kubelet"), identity_id("backup")


def node(name: str, host: str) -> PlacedNode:
    return PlacedNode(metadata=BareMeta(name=name), spec=PlacedNodeSpec(provider_id=f"azure://{host}" if host else ""))


def identity(
    name: str, namespace: str = "shop", kind: int = 0, *, namespaced: bool = False, **spec: Any
) -> AzureIdentity:
    made = objects.identity(
        name,
        namespace=namespace,
        type_=kind,
        namespaced=namespaced,
        resource_id=identity_id(name) if kind == 0 else "",
        client_password=SecretReference(name=f"{name}-secret", namespace=namespace) if kind in {1, 2} else None,
        tenant_id="tenant" if kind else "",
    )
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, **spec))


def binding(name: str, namespace: str = "shop", *, identity: str = "", selector: str = "") -> AzureIdentityBinding:
    return objects.binding(name, namespace=namespace, identity=identity or name, selector=selector or name)


def pod(
    name: str,
    namespace: str = "shop",
    *,
    label: str = "",
    node: str = "node-0",
    account: str = "default",
    labels: dict[str, str] | None = None,
    owner: OwnerReference | None = None,
    phase: str = "Running",
    mirror: bool = False,
    host_network: bool = False,
    host_pid: bool = False,
    privileged: bool = False,
    capabilities: list[str] | None = None,
    host_path: str = "",
    read_only: bool = False,
    dropped: list[str] | None = None,
    proc_mount: str | None = None,
    variable: str = "",
    **spec: Any,
) -> ReviewedPod:
    """*spec*: further fields of the pod's spec."""
    container = {
        "securityContext": {
            "privileged": privileged or None,
            "capabilities": {"add": capabilities, "drop": dropped},
            "procMount": proc_mount,
        },
        "volumeMounts": [{"name": "host", "readOnly": read_only}] if host_path else None,
        "env": [{"name": variable}] if variable else None,
    }
    document = {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "labels": ({BINDING_LABEL: label} if label else {}) | (labels or {}),
            "ownerReferences": [msgspec.to_builtins(owner)] if owner else None,
            "annotations": {"kubernetes.io/config.mirror": ""} if mirror else None,
        },
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "hostNetwork": host_network,
            "hostPID": host_pid,
            "containers": [container],
            "volumes": [{"name": "host", "hostPath": {"path": host_path}}] if host_path else None,
        },
        "status": {"phase": phase},
    }
    made = msgspec.convert(document, ReviewedPod)
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, **spec))


def exception(namespace: str = "shop", name: str = "legacy", **labels: str) -> AzurePodIdentityException:
    return nmi_objects.exception(name, labels, namespace=namespace)


def nmi(node: str, *flags: str) -> Daemon:
    return doctor_inputs.nmi("--federated-identities", *flags, name=f"nmi-{node}", node=node, host_network=True)


def owned_by(kind: str, name: str) -> OwnerReference:
    return OwnerReference(api_version="apps/v1", kind=kind, name=name, controller=True)


def nmi_pod(node: str) -> ReviewedPod:
    owner = owned_by("DaemonSet", "nmi")
    return pod(f"nmi-{node}", "kube-system", node=node, host_network=True, owner=owner)


def rule(verbs: str, group: str, resources: str, names: str = "") -> PolicyRule:
    return PolicyRule(
        verbs=tuple(verbs.split()),
        api_groups=(group,),
        resources=tuple(resources.split()),
        resource_names=tuple(names.split()) or None,
    )


def role(name: str, *rules: PolicyRule, namespace: str = "", **more: Any) -> Role:
    labels = more.pop("labels", None)
    return Role(metadata=BareMeta(name=name, namespace=namespace, labels=labels), rules=list(rules), **more)


def bound(role: str, subject: str, *, kind: str = "ClusterRole", namespace: str = "", name: str = "") -> RoleBinding:
    """Bind to *subject*: `User x`, `Group x` or `ServiceAccount namespace/x`."""
    what, _, who = subject.partition(" ")
    where, _, bare = who.rpartition("/") if what == "ServiceAccount" else ("", "", who)
    return RoleBinding(
        metadata=BareMeta(name=name or role, namespace=namespace),
        subjects=[Subject(kind=what, name=bare, namespace=where)],
        role_ref=RoleReference(kind=kind, name=role),
    )


def rbac(*roles: Role, bindings: tuple[RoleBinding, ...] = (), cluster: tuple[Role, ...] = ()) -> Rbac:
    return Rbac(
        roles=tuple(roles),
        cluster_roles=cluster,
        role_bindings=tuple(binding_ for binding_ in bindings if binding_.metadata.namespace),
        cluster_role_bindings=tuple(binding_ for binding_ in bindings if not binding_.metadata.namespace),
    )


def attached(*resource_ids: str, kind: str = USER) -> HostIdentities:
    return HostIdentities(
        type=kind, attached={resource_id.lower(): Attached(resource_id, "") for resource_id in resource_ids}
    )


def on_azure(**hosts: HostIdentities) -> AzureState:
    """Responses for `vm` and `pool`."""
    ids = {"vm": VM, "pool": SCALE_SET}
    keys = {name: host.key for name in hosts if (host := parse_provider_id(ids[name])) is not None}
    return AzureState({keys[name]: identities for name, identities in hosts.items()}, KUBELET)


def small_cluster(**changes: Any) -> Facts:
    """The facts; *changes* are fields of them. NMI's and MIC's pods may be all pods with their label."""
    payments, reports = identity("payments"), identity("reports", kind=3)
    legacy = identity("legacy", "ops", kind=1)
    bindings = [binding("payments"), binding("reports"), binding("legacy", "ops")]
    replica = owned_by("ReplicaSet", "web-7d4b")
    web = pod("web-7d4b-x1", label="payments", owner=replica, labels={"pod-template-hash": "7d4b"}, account="web")
    report = pod("report", label="reports", node="node-1", account="report")
    robot = pod("robot", "ops", label="legacy", node="node-1", account="robot")
    agent = pod("agent", "ops", node="node-2", privileged=True)
    developer = role(
        "developer",
        rule("create update", "apps", "deployments"),
        rule("create", "", "pods/exec"),
        namespace="shop",
    )
    usual = Facts(
        now=READ_AT,
        identities=(payments, reports, legacy),
        bindings=tuple(bindings),
        assigned=tuple(
            objects.assigned(*parts)
            for parts in ((web, payments, bindings[0]), (report, reports, bindings[1]), (robot, legacy, bindings[2]))
        ),
        pods=(web, report, robot, agent, *map(nmi_pod, ("node-0", "node-1", "node-2"))),
        nodes=(node("node-0", VM), *(node(f"node-{n}", f"{SCALE_SET}/virtualMachines/{n}") for n in (1, 2))),
        nmi=tuple(map(nmi, ("node-0", "node-1", "node-2"))),
        rbac=rbac(
            developer,
            cluster=(
                role("cluster-admin", rule("*", "*", "*")),
                role("nmi", rule("get", "", "secrets"), rule("create", "", "serviceaccounts/token")),
                role("binder", rule("create patch", GROUP, "azureidentitybindings")),
            ),
            bindings=(
                bound("developer", "Group shop-developers", kind="Role", namespace="shop"),
                bound("cluster-admin", "Group system:masters"),
                bound("nmi", "ServiceAccount kube-system/default"),
                bound("binder", "ServiceAccount ops/robot"),
            ),
        ),
        azure=on_azure(vm=attached(identity_id("payments"), KUBELET, STRANGE, kind=BOTH), pool=attached(KUBELET)),
    )
    lists: dict[str, Any] = {name: changes.pop(name) for name in LISTS if name in changes}
    return genuine(with_lists(replace(usual, **changes), lists))


LISTS: Final = ("identities", "bindings", "exceptions", "assigned", "pods", "nodes")


def genuine(facts: Facts) -> Facts:
    """Return the facts with NMI's and MIC's pods as they are read."""
    nmi, mic = facts.nmi, facts.mic
    nmi = nmi if isinstance(nmi, ReadFailure) else tuple(genuine_nmi(nmi))
    return replace(facts, nmi=nmi, mic=mic if isinstance(mic, ReadFailure) else tuple(genuine_mic(mic, readable(nmi))))


def reviewed(**changes: Any) -> AccessReview:
    return review(small_cluster(**changes))


def with_pods(*more: ReviewedPod) -> tuple[ReviewedPod, ...]:
    """Return the pods of the small cluster, and *more*."""
    return (*live_pods(small_cluster()), *more)


def printed(access: AccessReview, output: AccessOutput = AccessOutput.TABLE) -> str:
    """Return the output of a wide console."""
    text = io.StringIO()
    render(access, output, Console(file=text, width=400, highlight=False, emoji=False))
    return text.getvalue()


def policy_result(rule: str, access: AccessReview) -> PolicyResult:
    """Return the result of a policy with one rule, whose name is `it`."""
    text = f"version: 1\nrules:\n  - {{name: it, {rule}}}\n"
    return evaluate(access, parse_policy(text.encode()), "policy.yaml")


def rule_result(rule: str, access: AccessReview) -> RuleResult:
    (result,) = policy_result(rule, access).rules
    return result


def grants_of(access: AccessReview, pod: str) -> dict[str, Grant]:
    """Return the grants of a pod by identity."""
    return {grant.identity: grant for grant in access.grants if grant.pod == pod}


def pod_of(access: AccessReview, name: str) -> PodAccess:
    (pod_,) = (pod_ for pod_ in access.pods if pod_.full_name == name)
    return pod_
