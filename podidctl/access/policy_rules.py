"""Evaluation of the rules of a policy on a review. Pure.

A rule that depends on an unread part, or on an undecided setting of a pod, is *undecided*: its violations are reported,
and more are possible.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Final

from podidctl.access.blast_radius import REACHED_TODAY, BlastRadiusIndex
from podidctl.access.policy import (
    BlastRadiusLimit,
    IdentityOnlyFrom,
    IdentityTypes,
    NoClusterIdentity,
    NoHostAccess,
    NoUnexplainedIdentities,
    NoWildcardSubjects,
    OnlySubjects,
    Rule,
    RuleLine,
    SingleNamespace,
    is_listed,
    is_matched,
)
from podidctl.access.schema import (
    AccessReview,
    BlastRadius,
    Explained,
    Grant,
    Host,
    HostAccess,
    NodeAccess,
    PodAccess,
    Reach,
    SubjectAccess,
    SubjectRight,
)
from podidctl.access.unknown_parts import RBAC_PART, RESOURCES
from podidctl.access.violations import PolicyResult, RuleResult, Violation

GRANTS: Final = (RESOURCES["identities"], RESOURCES["bindings"], RESOURCES["assigned"], RESOURCES["pods"], "nmi")
HOSTS: Final = (RESOURCES["pods"], RESOURCES["nodes"], RESOURCES["exceptions"], "nmi")
AZURE: Final = "azure"
PARTS: Final[dict[type[Rule], tuple[str, ...]]] = {
    IdentityOnlyFrom: GRANTS,
    SingleNamespace: GRANTS,
    IdentityTypes: (RESOURCES["identities"],),
    NoHostAccess: HOSTS,
    NoClusterIdentity: (AZURE, RESOURCES["identities"], RESOURCES["bindings"]),
    NoUnexplainedIdentities: (AZURE, RESOURCES["nodes"], *GRANTS),
    OnlySubjects: (RBAC_PART,),
    NoWildcardSubjects: (RBAC_PART,),
    BlastRadiusLimit: (AZURE, *GRANTS, *HOSTS),
}
"""Parts of the review that each kind of rule depends on."""


def evaluate(review: AccessReview, rules: Iterable[RuleLine], file: str) -> PolicyResult:
    """Return the results. *review* must be of the whole cluster."""
    data = _Data(review)
    return PolicyResult(
        file=file,
        rules=[
            RuleResult(
                name=each.rule.name,
                kind=str(each.rule.__struct_config__.tag),
                why=each.rule.why,
                severity=each.rule.severity,
                line=each.line,
                violations=list(_violations(data, each.rule)),
                undecided=[*_unread(review, each.rule), *_undecided_pods(data, each.rule)],
            )
            for each in rules
        ],
    )


def _unread(review: AccessReview, rule: Rule) -> list[str]:
    needed = set(PARTS[type(rule)])
    if isinstance(rule, NoHostAccess) and rule.identities:
        needed |= {AZURE, *GRANTS}
    unread = [f"{each.part}: {each.why}" for each in review.unknown if each.part in needed]
    if AZURE in needed and review.azure == "not read":
        unread.append("azure: it was not read; pass --cloudconfig")
    elif isinstance(rule, NoClusterIdentity) and not review.cluster_identity:
        unread.append("azure: the cloud config names no identity; pass the azure.json of a node as --cloudconfig")
    return unread


class _Data:
    """The review by name."""

    def __init__(self, review: AccessReview) -> None:
        self.review = review

    @cached_property
    def pods(self) -> dict[str, PodAccess]:
        return {each.full_name: each for each in self.review.pods}

    @cached_property
    def grants_of(self) -> dict[str, list[Grant]]:
        """Grants with which a pod gets tokens, by identity."""
        found: defaultdict[str, list[Grant]] = defaultdict(list)
        for each in self.review.grants:
            if each.state in REACHED_TODAY:
                found[each.identity].append(each)
        return found

    @cached_property
    def host_of_node(self) -> dict[str, Host]:
        hosts = {each.id: each for each in self.review.hosts}
        return {each.name: hosts[each.host] for each in self.review.nodes if each.host in hosts}

    @cached_property
    def nodes(self) -> dict[str, NodeAccess]:
        return {each.name: each for each in self.review.nodes}

    @cached_property
    def radius_index(self) -> BlastRadiusIndex:
        return BlastRadiusIndex(self.review.pods, self.review.grants, self.review.hosts)


def _violations(data: _Data, rule: Rule) -> Iterator[Violation]:
    match rule:
        case IdentityOnlyFrom():
            yield from _identity_only_from(data, rule)
        case SingleNamespace():
            yield from _single_namespace(data, rule)
        case IdentityTypes():
            yield from _identity_types(data, rule)
        case NoHostAccess():
            yield from _no_host_access(data, rule)
        case NoClusterIdentity():
            yield from _no_cluster_identity(data, rule)
        case NoUnexplainedIdentities():
            yield from _no_unexplained(data, rule)
        case OnlySubjects():
            yield from _only_subjects(data, rule)
        case NoWildcardSubjects():
            yield from _no_wildcard_subjects(data, rule)
        case BlastRadiusLimit():
            yield from _blast_radius(data, rule)


def _identity_only_from(data: _Data, rule: IdentityOnlyFrom) -> Iterator[Violation]:
    for identity, grants in sorted(data.grants_of.items()):
        if not is_matched(identity, rule.identities):
            continue
        for grant in grants:
            namespace = grant.pod.partition("/")[0]
            pod = data.pods.get(grant.pod)
            account = pod.service_account if pod is not None else grant.service_account
            if not is_listed(namespace, rule.namespaces):
                yield _by_grant(grant, "which only pods of the namespaces " + ", ".join(rule.namespaces) + " may use")
            elif not is_matched(account, rule.service_accounts):
                yield _by_grant(grant, f"with service account {account}, which the rule does not list")


def _by_grant(grant: Grant, rest: str) -> Violation:
    path = f" through binding {grant.binding}" if grant.binding else ""
    return Violation(object=f"Pod {grant.pod}", says=f"can use identity {grant.identity}{path} ({grant.state}), {rest}")


def _single_namespace(data: _Data, rule: SingleNamespace) -> Iterator[Violation]:
    for identity, grants in sorted(data.grants_of.items()):
        namespaces = sorted({each.pod.partition("/")[0] for each in grants})
        if len(namespaces) > 1 and is_matched(identity, rule.identities):
            yield Violation(
                object=f"AzureIdentity {identity}", says=f"is used by pods of the namespaces {', '.join(namespaces)}"
            )


def _identity_types(data: _Data, rule: IdentityTypes) -> Iterator[Violation]:
    for each in data.review.identities:
        if is_matched(each.full_name, rule.identities) and each.type not in rule.types:
            yield Violation(object=f"AzureIdentity {each.full_name}", says=f"has type {each.type}")


def _no_host_access(data: _Data, rule: NoHostAccess) -> Iterator[Violation]:
    for pod in data.review.pods:
        if (ways := _ways(pod.host_access, rule)) and (identities := _reached(data, rule, pod)) is not None:
            yield Violation(
                object=f"Pod {pod.full_name}", says=f"reaches {identities} of node {pod.node} by {', '.join(ways)}"
            )


def _ways(access: Iterable[HostAccess], rule: NoHostAccess) -> list[str]:
    return list(dict.fromkeys(each.way.value for each in access if each.way in rule.ways))


def _reached(data: _Data, rule: NoHostAccess, pod: PodAccess) -> str | None:
    """Return the identities of the rule that are on the pod's node; None if none is, or the rule excepts the pod."""
    if not is_listed(pod.node, rule.nodes) or _is_excepted(rule, pod):
        return None
    if not rule.identities:
        return "the identities"
    host = data.host_of_node.get(pod.node)
    names = sorted(_matching(host, rule.identities)) if host is not None else []
    return f"identity {', '.join(names)}" if names else None


def _is_excepted(rule: NoHostAccess | BlastRadiusLimit, pod: PodAccess) -> bool:
    return is_listed(pod.namespace, rule.except_namespaces) or is_matched(pod.full_name, rule.except_pods)


def _undecided_pods(data: _Data, rule: Rule) -> Iterator[str]:
    """Yield the pods whose undecided settings could violate the rule."""
    if isinstance(rule, NoHostAccess):
        for pod in data.review.pods:
            undecided = [each for each in pod.undecided_access if each.way in rule.ways]
            if undecided and not _ways(pod.host_access, rule) and _reached(data, rule, pod) is not None:
                yield f"Pod {pod.full_name} on node {pod.node}: {_shown(undecided)}"
    elif isinstance(rule, BlastRadiusLimit) and rule.of == "pod":
        for pod in data.review.pods:
            node = data.nodes.get(pod.node)
            if node is None or not pod.undecided_access or _is_excepted(rule, pod):
                continue
            own = _count(_reach(rule, data.radius_index.of_pod(pod, node)))
            if own <= rule.max_identities < (most := _count(_reach(rule, node.blast_radius))):
                yield f"Pod {pod.full_name} may reach {most} identities: {_shown(pod.undecided_access)}"


def _shown(undecided: Iterable[HostAccess]) -> str:
    return "; ".join(f"{' '.join(filter(None, (each.way.value, each.detail)))}: {each.why}" for each in undecided)


def _matching(host: Host, patterns: list[str]) -> Iterator[str]:
    for each in host.attached:
        names = each.identities or [each.resource_id.rpartition("/")[2]]
        yield from (name for name in names if is_matched(name, patterns))


def _no_cluster_identity(data: _Data, rule: NoClusterIdentity) -> Iterator[Violation]:
    for binding in data.review.bindings:
        if binding.critical and not is_matched(binding.full_name, rule.except_bindings):
            yield Violation(object=f"AzureIdentityBinding {binding.full_name}", says=binding.critical)


def _no_unexplained(data: _Data, rule: NoUnexplainedIdentities) -> Iterator[Violation]:
    for host in data.review.hosts:
        for each in host.attached:
            name = each.resource_id.rpartition("/")[2]
            if each.explained is Explained.NOTHING and not is_listed(name, rule.except_identities):
                yield Violation(object=f"{host.kind} {host.id}", says=f"has {each.resource_id}, which nothing explains")


def _rights(data: _Data, *, built_in: bool) -> Iterator[tuple[SubjectAccess, SubjectRight]]:
    for subject in data.review.subjects:
        if built_in or not subject.built_in:
            yield from ((subject, right) for right in subject.rights)


def _only_subjects(data: _Data, rule: OnlySubjects) -> Iterator[Violation]:
    for subject, right in _rights(data, built_in=rule.built_in):
        if right.action not in rule.actions or is_listed(subject.full_name, rule.subjects):
            continue
        where = [each for each in right.namespaces if is_listed(each, rule.namespaces)]
        if where or not right.namespaces:
            yield _by_right(subject, right, f"in {', '.join(where) or 'all namespaces'}")


def _no_wildcard_subjects(data: _Data, rule: NoWildcardSubjects) -> Iterator[Violation]:
    for subject, right in _rights(data, built_in=rule.built_in):
        excepted = is_listed(subject.full_name, rule.except_subjects)
        if right.wildcard and right.action in rule.actions and not excepted:
            yield _by_right(subject, right, "by a wildcard")


def _by_right(subject: SubjectAccess, right: SubjectRight, rest: str) -> Violation:
    return Violation(object=subject.full_name, says=f"may {right.action} {rest}: {'; '.join(right.via)}")


def _blast_radius(data: _Data, rule: BlastRadiusLimit) -> Iterator[Violation]:
    review = data.review
    if rule.of == "node":
        reached = ((f"Node {each.name}", each.blast_radius) for each in review.nodes)
    else:
        reached = (
            (f"Pod {each.full_name}", data.radius_index.of_pod(each, data.nodes.get(each.node)))
            for each in review.pods
            if not _is_excepted(rule, each)
        )
    for name, radius in reached:
        count = _count(_reach(rule, radius))
        if count > rule.max_identities:
            yield Violation(object=name, says=f"reaches {count} identities, more than {rule.max_identities}")


def _reach(rule: BlastRadiusLimit, radius: BlastRadius) -> Reach:
    return radius.federated if rule.federated else radius.today


def _count(reach: Reach) -> int:
    return len(reach.identities) + len(reach.others)
