"""Subjects with permissions that lead to identities: to write our objects, to create or change pods, to use other pods'
credentials, and to get more permissions. Pure.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from podidctl.access.projections import RBAC_GROUP, PolicyRule
from podidctl.access.rbac import ALL, BoundRule, Permissions, Request, SubjectKey, matches, service_account
from podidctl.access.schema import Action, SubjectAccess, SubjectRight
from podidentity.resources import GROUP

WRITE: Final = ("create", "update", "patch")


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
    Check(Action.LABELS, "", ("pods",), ("update", "patch")),
    Check(Action.WORKLOADS, "apps", ("deployments", "daemonsets", "statefulsets", "replicasets"), WRITE),
    Check(Action.WORKLOADS, "batch", ("jobs", "cronjobs"), WRITE),
    Check(Action.WORKLOADS, "", ("replicationcontrollers",), WRITE),
    Check(Action.EXEC, "", ("pods/exec", "pods/attach"), ("create", "get")),
    Check(Action.EXEC, "", ("pods/ephemeralcontainers",), ("update", "patch")),
    Check(Action.EXEC, "", ("nodes/proxy",), ("create", "get")),
    Check(Action.TOKENS, "", ("serviceaccounts/token",), ("create",)),
    Check(Action.SECRETS, "", ("secrets",), ("get", "list", "watch")),
    Check(Action.ROLES, RBAC_GROUP, ("roles", "clusterroles"), ("bind", "escalate")),
    Check(Action.IMPERSONATE, "", ("users", "groups", "serviceaccounts"), ("impersonate",)),
    Check(
        Action.ADMISSION,
        "admissionregistration.k8s.io",
        ("mutatingwebhookconfigurations", "mutatingadmissionpolicies"),
        WRITE,
    ),
)
CLUSTER_SCOPED: Final = frozenset(
    {"nodes/proxy", "mutatingwebhookconfigurations", "mutatingadmissionpolicies", "users", "groups"}
)
"""Resources on which a role of one namespace has no effect. (`bind` on a ClusterRole is checked in the namespace of the
RoleBinding that names it.)"""
ALWAYS_SHOWN: Final = frozenset(
    {Action.BINDINGS, Action.IDENTITIES, Action.EXCEPTIONS, Action.ASSIGNED, Action.ROLES, Action.IMPERSONATE}
)
"""Actions that are shown even if they lead to no identity today."""

Names = frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """AzureIdentities that each action leads to. Names of namespaced things are `namespace/name`."""

    identities: Names = frozenset()
    offered: Callable[[str], Names] = lambda _namespace: frozenset()
    """Identities that bindings give to pods of a namespace with any label; of every namespace if it is empty."""
    of_pods: Mapping[str, Names] = field(default_factory=dict)
    """By pod."""
    of_accounts: Mapping[str, Names] = field(default_factory=dict)
    """By service account: identities of type 3, and those within reach of NMI's and MIC's own accounts."""
    of_secrets: Mapping[str, Names] = field(default_factory=dict)
    """By Secret."""
    only: Names | None = None
    """Identities that count; None for all. Permissions that lead to none of them are left out."""

    def of(self, action: Action, namespace: str, names: Names) -> Names:
        """Return the identities that *action* leads to in *namespace* (all if empty) on *names* (all if empty)."""
        found = self._all_of(action, namespace, names)
        return found if self.only is None else found & self.only

    def _all_of(self, action: Action, namespace: str, names: Names) -> Names:
        match action:
            case Action.PODS | Action.LABELS | Action.WORKLOADS | Action.ADMISSION:
                found = self.offered(namespace)
            case Action.EXEC:
                found = _union(self.of_pods, namespace, names)
            case Action.TOKENS:
                found = _union(self.of_accounts, namespace, names)
            case Action.SECRETS:
                found = _union(self.of_secrets, namespace, names)
            case Action.BINDINGS:
                found = _within(self.identities, namespace)
            case Action.ROLES if namespace:
                found = _within(self.identities, namespace) | self.offered(namespace)
            case _:
                found = self.identities
        return found


def _within(names: Names, namespace: str) -> Names:
    return names if not namespace else frozenset(each for each in names if each.startswith(f"{namespace}/"))


def _union(by_name: Mapping[str, Names], namespace: str, names: Names) -> Names:
    found: set[str] = set()
    for name, identities in by_name.items():
        where, _, bare = name.partition("/")
        if namespace in {"", where} and (not names or bare in names):
            found |= identities
    return frozenset(found)


class _Found(NamedTuple):
    action: Action
    namespace: str
    names: Names


@dataclass(slots=True)
class _Merged:
    verbs: set[str]
    resources: set[str]
    via: set[str]
    wildcard: bool = False


def find_subjects(permissions: Permissions, targets: Targets) -> list[SubjectAccess]:
    """Return the subjects with at least one such permission, sorted."""
    found = ((key, list(_rights(permissions.by_subject[key], targets))) for key in sorted(permissions.by_subject))
    return [
        SubjectAccess(
            kind=key.kind,
            namespace=key.namespace,
            name=key.name,
            built_in=key.name.startswith("system:"),
            rights=rights,
        )
        for key, rights in found
        if rights
    ]


def actions_of_accounts(permissions: Permissions, targets: Targets, accounts: Iterable[str]) -> dict[str, list[Action]]:
    """Return the actions that each service account may take, itself or by its groups; without entries for none."""
    of_subjects: dict[SubjectKey, set[Action]] = {}

    def actions(key: SubjectKey) -> set[Action]:
        known = of_subjects.get(key)
        if known is None:
            rights = _rights(permissions.by_subject.get(key, ()), targets)
            known = of_subjects[key] = {each.action for each in rights}
        return known

    found = {}
    for account in accounts:
        its = set().union(*(actions(key) for key in service_account(account)))
        if its:
            found[account] = [each for each in Action if each in its]
    return found


def _rights(bound: Sequence[BoundRule], targets: Targets) -> Iterator[SubjectRight]:
    merged: dict[_Found, _Merged] = {}
    for each in bound:
        for check in CHECKS:
            _match(each, check, merged)
    shown: defaultdict[tuple[object, ...], list[tuple[_Found, _Merged]]] = defaultdict(list)
    for found, how in merged.items():
        shown[
            found.action, found.names, frozenset(how.verbs), frozenset(how.resources), how.wildcard, not found.namespace
        ].append((found, how))
    rights = []
    for several in shown.values():
        action, names = several[0][0].action, several[0][0].names
        reached: set[str] = set()
        kept: list[tuple[_Found, _Merged]] = []
        for found, how in several:
            its = targets.of(action, found.namespace, names)
            if its or (action in ALWAYS_SHOWN and targets.only is None):
                reached |= its
                kept.append((found, how))
        if not kept:
            continue
        rights.append(
            SubjectRight(
                action=action,
                verbs=sorted(kept[0][1].verbs),
                resources=sorted(kept[0][1].resources),
                namespaces=sorted({found.namespace for found, _ in kept} - {""}),
                names=sorted(names),
                wildcard=kept[0][1].wildcard,
                via=sorted(set().union(*(how.via for _, how in kept))),
                identities=len(reached),
            )
        )
    order = {action: number for number, action in enumerate(Action)}
    yield from sorted(rights, key=lambda each: (order[each.action], each.namespaces, each.names, each.verbs))


def _match(bound: BoundRule, check: Check, merged: dict[_Found, _Merged]) -> None:
    """Add the part of *check* that the rule allows to *merged*."""
    rule = bound.rule
    names: Names = frozenset(rule.resource_names or ())
    some_name = next(iter(names), "")
    for resource in check.resources:
        if bound.namespace and resource in CLUSTER_SCOPED:
            continue
        for verb in check.verbs:
            # A request that creates an object has no name, and a request that creates a subresource has its object's.
            name = "" if verb == "create" and "/" not in resource else some_name
            if not matches(rule, Request(verb, check.group, resource, name=name)):
                continue
            key = _Found(check.action, bound.namespace, names)
            entry = merged.setdefault(key, _Merged(set(), set(), set()))
            entry.verbs.add(verb)
            entry.resources.add(f"{resource}.{check.group}" if check.group else resource)
            entry.via.add(bound.via)
            entry.wildcard = entry.wildcard or _by_wildcard(rule, verb, resource)


def _by_wildcard(rule: PolicyRule, verb: str, resource: str) -> bool:
    return verb not in (rule.verbs or ()) or resource not in (rule.resources or ()) or ALL in (rule.api_groups or ())
