"""Subjects with permissions that lead to identities: to write our objects, to create or change pods, to use other pods'
credentials, and to get more permissions. Pure.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, NamedTuple

from podidctl.access.schema import Action, SubjectAccess, SubjectRight
from podidctl.access.targets import ByName, Names, Targets
from podidctl.evaluation.rbac import ALL, BoundRule, Permissions, Request, SubjectKey, matches, service_account
from podidctl.facts.rbac import RBAC_GROUP, PolicyRule
from podidentity.resources import GROUP

WRITE: Final = ("create", "update", "patch")
NODES: Final = "nodes/proxy"
"""The kubelet's API, with which a client runs commands in the node's pods."""
APPROVAL: Final = "certificatesigningrequests/approval"
"""An approved request yields a certificate of the user and the groups that it names."""


class Check(NamedTuple):
    """Requests that an action consists of."""

    action: Action
    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


CHECKS: Final = (
    Check(Action.BINDINGS, GROUP, ("azureidentitybindings",), WRITE),
    Check(Action.IDENTITIES, GROUP, ("azureidentities",), WRITE),
    Check(Action.EXCEPTIONS, GROUP, ("azurepodidentityexceptions",), WRITE),
    Check(Action.ASSIGNED, GROUP, ("azureassignedidentities",), WRITE),
    Check(Action.PODS, "", ("pods",), ("create",)),
    # With pods/status, because NMI recognizes a pod by the address there.
    Check(Action.LABELS, "", ("pods", "pods/status"), ("update", "patch")),
    Check(Action.WORKLOADS, "apps", ("deployments", "daemonsets", "statefulsets", "replicasets"), WRITE),
    Check(Action.WORKLOADS, "batch", ("jobs", "cronjobs"), WRITE),
    Check(Action.WORKLOADS, "", ("replicationcontrollers",), WRITE),
    Check(Action.EXEC, "", ("pods/exec", "pods/attach"), ("create", "get")),
    Check(Action.EXEC, "", ("pods/ephemeralcontainers",), ("update", "patch")),
    Check(Action.EXEC, "", (NODES,), ("create", "get")),
    Check(Action.TOKENS, "", ("serviceaccounts/token",), ("create",)),
    Check(Action.SECRETS, "", ("secrets",), ("get", "list", "watch")),
    # Without these verbs, a subject can pass on only its own permissions.
    Check(Action.ROLES, RBAC_GROUP, ("roles", "clusterroles"), ("bind", "escalate")),
    Check(Action.IMPERSONATE, "", ("users", "groups", "serviceaccounts"), ("impersonate",)),
    # Constrained impersonation (KEP-5284, on by default since Kubernetes 1.36); the verbs that limit it are not read.
    Check(Action.IMPERSONATE, "authentication.k8s.io", ("users", "groups"), ("impersonate:user-info",)),
    Check(Action.IMPERSONATE, "authentication.k8s.io", ("serviceaccounts",), ("impersonate:serviceaccount",)),
    Check(
        Action.IMPERSONATE,
        "authentication.k8s.io",
        ("nodes",),
        ("impersonate:arbitrary-node", "impersonate:associated-node"),
    ),
    Check(Action.IMPERSONATE, "certificates.k8s.io", (APPROVAL,), ("update", "patch")),
    Check(
        Action.ADMISSION,
        "admissionregistration.k8s.io",
        ("mutatingwebhookconfigurations", "mutatingadmissionpolicies"),
        WRITE,
    ),
)
CLUSTER_SCOPED: Final = frozenset(
    {NODES, APPROVAL, "mutatingwebhookconfigurations", "mutatingadmissionpolicies", "users", "groups", "nodes"}
)
"""Resources on which a role of one namespace has no effect. (`bind` on a ClusterRole is checked in the namespace of the
RoleBinding that names it.)"""
ALWAYS_SHOWN: Final = frozenset(
    {Action.BINDINGS, Action.IDENTITIES, Action.EXCEPTIONS, Action.ASSIGNED, Action.ROLES, Action.IMPERSONATE}
)
"""Actions that are shown even if they lead to no identity today."""

ROUNDS_MAX: Final = 20
"""Service accounts in one chain, each of which leads to the next one."""
NAMES_MAX: Final = 200
"""Names of objects in one permission: a role can have thousands, and every subject would repeat them."""
OPEN_GROUPS: Final = frozenset({"system:authenticated", "system:unauthenticated", "system:serviceaccounts"})
"""Groups of Kubernetes whose members are its clients: a permission of theirs is one of every client."""
ANONYMOUS: Final = "system:anonymous"


class _Permission(NamedTuple):
    action: Action
    namespace: str
    names: Names
    on_nodes: bool
    """Whether *names* are those of nodes."""


@dataclass(slots=True)
class _Merged:
    verbs: set[str]
    resources: set[str]
    via: set[str]
    wildcard: bool = False


def find_subjects(permissions: Permissions, targets: Targets) -> list[SubjectAccess]:
    """Return the subjects with at least one such permission, sorted."""
    rights_of_subjects = (
        (key, _rights(permissions.by_subject[key], targets)) for key in sorted(permissions.by_subject)
    )
    return [
        SubjectAccess(
            kind=key.kind,
            namespace=key.namespace,
            name=key.name,
            built_in=is_built_in(key),
            rights=rights,
        )
        for key, rights in rights_of_subjects
        if rights
    ]


def is_built_in(key: SubjectKey) -> bool:
    """Return whether the subject is a component or an administrator of Kubernetes itself (`system:…`), and not a group
    or user that includes arbitrary clients.
    """
    open_ = key.name in OPEN_GROUPS or key.name.startswith("system:serviceaccounts:") or key.name == ANONYMOUS
    return key.name.startswith("system:") and not open_


def actions_of_accounts(permissions: Permissions, targets: Targets, accounts: Iterable[str]) -> dict[str, list[Action]]:
    """Return the actions that each service account may take, itself or by its groups; without entries for none."""

    @cache
    def actions(key: SubjectKey) -> set[Action]:
        return {right.action for right in _rights(permissions.by_subject.get(key, ()), targets)}

    by_account = {}
    for account in accounts:
        its = set().union(*(actions(key) for key in service_account(account)))
        if its:
            by_account[account] = [action for action in Action if action in its]
    return by_account


def _rights(bound: Sequence[BoundRule], targets: Targets) -> list[SubjectRight]:
    """Return the permissions that lead to identities, and those of ALWAYS_SHOWN. Those that differ only in the
    namespace become one.
    """
    groups: defaultdict[tuple[object, ...], list[tuple[_Permission, _Merged, Names]]] = defaultdict(list)
    for permission, how in _merged(bound).items():
        verbs, resources = frozenset(how.verbs), frozenset(how.resources)
        group = groups[
            permission.action,
            permission.names,
            permission.on_nodes,
            # A permission in all namespaces must not disappear in one for some of them.
            not permission.namespace,
            verbs,
            resources,
            how.wildcard,
        ]
        reached = targets.of(permission.action, permission.namespace, permission.names, on_nodes=permission.on_nodes)
        if reached or (permission.action in ALWAYS_SHOWN and targets.only is None):
            group.append((permission, how, reached))
    rights = [
        SubjectRight(
            action=group[0][0].action,
            verbs=sorted(group[0][1].verbs),
            resources=sorted(group[0][1].resources),
            namespaces=sorted({permission.namespace for permission, _, _ in group} - {""}),
            names=_shown_names(group[0][0].names),
            wildcard=group[0][1].wildcard,
            via=sorted(set().union(*(how.via for _, how, _ in group))),
            identities=len(frozenset().union(*(reached for _, _, reached in group))),
        )
        for group in groups.values()
        if group
    ]
    order = {action: number for number, action in enumerate(Action)}
    return sorted(rights, key=lambda right: (order[right.action], right.namespaces, right.names, right.verbs))


def _shown_names(names: Names) -> list[str]:
    """Return the names, sorted, at most NAMES_MAX and the number of further ones."""
    more = len(names) - NAMES_MAX
    return [*heapq.nsmallest(NAMES_MAX, names), *([f"and {more} more"] if more > 0 else [])]


def _merged(bound: Iterable[BoundRule]) -> dict[_Permission, _Merged]:
    merged: dict[_Permission, _Merged] = {}
    for rule in bound:
        for check in CHECKS:
            _match(rule, check, merged)
    return merged


def with_accounts(permissions: Permissions, targets: Targets, account_of: Mapping[str, str]) -> Targets:
    """Return *targets* with the identities that the permissions of service accounts lead to: a client with the token of
    an account, or in a pod that runs with it, has them. *account_of*: the account of each pod that has one.

    A chain of more than ROUNDS_MAX accounts is followed in part.
    """
    named = {f"{key.namespace}/{key.name}" for key in permissions.by_subject if key.kind == "ServiceAccount"}
    permissions_of = {
        account: dict.fromkeys(
            permission
            for key in service_account(account)
            for permission in _merged(permissions.by_subject.get(key, ()))
        )
        for account in sorted(named | set(account_of.values()))
    }
    for _ in range(ROUNDS_MAX):
        accounts = dict(targets.of_accounts.of_object)
        for account, several in permissions_of.items():
            reached = (
                targets.of(right.action, right.namespace, right.names, on_nodes=right.on_nodes) for right in several
            )
            if several:
                accounts[account] = accounts.get(account, frozenset()).union(*reached)
        if accounts == targets.of_accounts.of_object:
            break
        pods = dict(targets.of_pods.of_object)
        for pod, account in account_of.items():
            if its := accounts.get(account):
                pods[pod] = pods.get(pod, frozenset()) | its
        targets = replace(targets, of_accounts=ByName(accounts), of_pods=ByName(pods))
    return targets


def _match(bound: BoundRule, check: Check, merged: dict[_Permission, _Merged]) -> None:
    """Add the part of *check* that the rule allows to *merged*."""
    rule, names = bound.rule, bound.names
    # A rule allows a request on each of its names, or on none of them.
    some_name = rule.resource_names[0] if rule.resource_names else ""
    for resource in check.resources:
        if bound.namespace and resource in CLUSTER_SCOPED:
            continue
        for verb in check.verbs:
            # A request that creates an object has no name, and a request that creates a subresource has its object's.
            name = "" if verb == "create" and "/" not in resource else some_name
            if not matches(rule, Request(verb, check.group, resource, name=name)):
                continue
            key = _Permission(check.action, bound.namespace, names, bool(names) and resource == NODES)
            entry = merged.setdefault(key, _Merged(set(), set(), set()))
            entry.verbs.add(verb)
            entry.resources.add(f"{resource}.{check.group}" if check.group else resource)
            entry.via.add(bound.via)
            entry.wildcard = entry.wildcard or _by_wildcard(rule, verb, resource)


def _by_wildcard(rule: PolicyRule, verb: str, resource: str) -> bool:
    return verb not in (rule.verbs or ()) or resource not in (rule.resources or ()) or ALL in (rule.api_groups or ())
