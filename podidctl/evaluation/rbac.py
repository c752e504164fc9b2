"""Permissions of each subject by the cluster's roles and bindings, as the API server's RBAC authorizer decides. Pure.

An aggregated ClusterRole has its own rules and those of the ClusterRoles that it selects: the controller copies them
within seconds, so a permission that is about to exist counts already.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from podidctl.facts.rbac import PolicyRule, Rbac, Role, RoleBinding, Subject
from podidctl.facts.workloads import LabelSelector

ALL: Final = "*"
ACCOUNT_PREFIX: Final = "system:serviceaccount:"


class SubjectKey(NamedTuple):
    """A subject. Of a service account's user name, the service account."""

    kind: str
    namespace: str
    name: str


class BoundRule(NamedTuple):
    """One rule that a subject has."""

    rule: PolicyRule
    namespace: str
    """Empty for all namespaces."""
    via: str
    """The binding and the role, in words."""
    names: frozenset[str]
    """`resourceNames`. All bindings of a role share one set."""
    binding: str
    """Name of the RoleBinding or ClusterRoleBinding."""


class Request(NamedTuple):
    """Attributes of one request."""

    verb: str
    group: str
    resource: str
    """With `/SUBRESOURCE` if there is one."""
    namespace: str = ""
    name: str = ""


class Permissions:
    """The rules of all subjects."""

    def __init__(self, rbac: Rbac) -> None:
        self._cluster_roles = {role.metadata.name: _without_repeats(role) for role in rbac.cluster_roles}
        self._roles = {role.key: _without_repeats(role) for role in rbac.roles}
        self._aggregated: dict[str, tuple[PolicyRule, ...]] = {}
        self._names: dict[int, frozenset[str]] = {}
        """By the id of a rule, which `_roles` or `_cluster_roles` keeps."""
        by_subject: defaultdict[SubjectKey, list[BoundRule]] = defaultdict(list)
        for kind, bindings in (
            ("ClusterRoleBinding", rbac.cluster_role_bindings),
            ("RoleBinding", rbac.role_bindings),
        ):
            for binding in bindings:
                rules = list(self._bound_rules(kind, binding))
                for subject in binding.subjects or ():
                    if rules and (key := _key(subject, binding.metadata.namespace)) is not None:
                        by_subject[key] += rules
        self.by_subject: Mapping[SubjectKey, Sequence[BoundRule]] = by_subject

    def allows(self, subjects: Iterable[SubjectKey], request: Request) -> bool:
        """Return whether a client that is all of *subjects* (a user and its groups) may make the request."""
        return any(
            bound.namespace in {"", request.namespace} and matches(bound.rule, request)
            for subject in subjects
            for bound in self.by_subject.get(subject, ())
            # A RoleBinding permits nothing outside of namespaces.
            if not bound.namespace or request.namespace
        )

    def _bound_rules(self, kind: str, binding: RoleBinding) -> Iterator[BoundRule]:
        reference, namespace = binding.role_ref, binding.metadata.namespace
        if reference.kind == "Role":
            role = self._roles.get((namespace, reference.name))
            rules: Sequence[PolicyRule] = role.rules or () if role is not None else ()
        else:
            rules = self._rules_of(reference.name)
        where = f"{namespace}/" if namespace else ""
        via = f"{kind} {where}{binding.metadata.name} → {reference.kind} {reference.name}"
        return (BoundRule(rule, namespace, via, self._names_of(rule), binding.metadata.name) for rule in rules)

    def _names_of(self, rule: PolicyRule) -> frozenset[str]:
        names = self._names.get(id(rule))
        if names is None:
            names = self._names[id(rule)] = frozenset(rule.resource_names or ())
        return names

    def _rules_of(self, name: str) -> tuple[PolicyRule, ...]:
        """Return the rules of a ClusterRole, with those of the ClusterRoles that it aggregates."""
        aggregated = self._aggregated.get(name)
        if aggregated is not None:
            return aggregated
        role = self._cluster_roles.get(name)
        if role is None:
            return ()
        self._aggregated[name] = tuple(role.rules or ())  # ends a cycle of roles that select each other
        rules = dict.fromkeys(role.rules or ())
        selectors = role.aggregation_rule.cluster_role_selectors or () if role.aggregation_rule is not None else ()
        for candidate in self._cluster_roles.values() if selectors else ():
            if candidate.metadata.name != name and any(_selects(selector, candidate) for selector in selectors):
                rules |= dict.fromkeys(self._rules_of(candidate.metadata.name))
        self._aggregated[name] = tuple(rules)
        return self._aggregated[name]


def _without_repeats(role: Role) -> Role:
    """Return *role* with each entry of its rules once. The API server accepts long lists of one entry, which every
    binding of the role would cost again.
    """
    return msgspec.structs.replace(role, rules=[_distinct(rule) for rule in role.rules or ()])


def _distinct(rule: PolicyRule) -> PolicyRule:
    return PolicyRule(
        verbs=tuple(dict.fromkeys(rule.verbs or ())),
        api_groups=tuple(dict.fromkeys(rule.api_groups or ())),
        resources=tuple(dict.fromkeys(rule.resources or ())),
        resource_names=tuple(dict.fromkeys(rule.resource_names or ())),
    )


def matches(rule: PolicyRule, request: Request) -> bool:
    """Return whether *rule* allows the request, regardless of the namespace."""
    subresource = request.resource.partition("/")[2]
    resources = {ALL, request.resource, *([f"*/{subresource}"] if subresource else ())}
    return (
        not {ALL, request.verb}.isdisjoint(rule.verbs or ())
        and not {ALL, request.group}.isdisjoint(rule.api_groups or ())
        and not resources.isdisjoint(rule.resources or ())
        and (not rule.resource_names or request.name in rule.resource_names)
    )


def service_account(name: str) -> tuple[SubjectKey, ...]:
    """Return the subjects of a service account's token: itself and its groups. *name* is `namespace/name`."""
    namespace, _, bare = name.partition("/")
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return (SubjectKey("ServiceAccount", namespace, bare), *(SubjectKey("Group", "", group) for group in groups))


def _key(subject: Subject, namespace: str) -> SubjectKey | None:
    """Return the subject of a binding in *namespace*; None for one that no client is."""
    match subject.kind:
        case "ServiceAccount":
            # The authorizer uses the namespace of a RoleBinding here; a ClusterRoleBinding has none.
            where = subject.namespace or namespace
            return SubjectKey("ServiceAccount", where, subject.name) if where else None
        # A service account authenticates as this user, so a binding of the user is one of the account.
        case "User" if subject.name.startswith(ACCOUNT_PREFIX):
            where, _, name = subject.name.removeprefix(ACCOUNT_PREFIX).partition(":")
            return SubjectKey("ServiceAccount", where, name)
        case "User" | "Group":
            return SubjectKey(subject.kind, "", subject.name)
        case _:
            return None


def _selects(selector: LabelSelector, role: Role) -> bool:
    """Return whether the label selector matches; an empty one matches everything, as in the API."""
    labels = role.metadata.labels or {}
    if any(labels.get(key) != value for key, value in (selector.match_labels or {}).items()):
        return False
    for expression in selector.match_expressions or ():
        there, values = expression.key in labels, expression.values or ()
        match expression.operator:
            case "In":
                fits = there and labels[expression.key] in values
            case "NotIn":
                fits = not there or labels[expression.key] not in values
            case "Exists":
                fits = there
            case "DoesNotExist":
                fits = not there
            # The API server accepts no other operator.
            case _:
                fits = False
        if not fits:
            return False
    return True
