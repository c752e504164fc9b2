"""Rules of a policy, each with its fields in the file and its evaluation on a review. Pure.

Patterns are names with `*` and `?`. A pattern with a slash is compared with `namespace/name`, any other with the name.
A rule that depends on an unread part, or on an undecided setting of a pod, is *undecided*: its violations are reported,
and more are possible.
"""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, TypeAlias

import msgspec
from typing_extensions import override

from podidctl.access.blast_radius import ReviewIndex
from podidctl.access.schema import (
    AccessReview,
    Action,
    BlastRadius,
    Explained,
    Grant,
    Host,
    HostAccess,
    PodAccess,
    SubjectAccess,
    SubjectRight,
    Way,
    short_name,
)
from podidctl.access.unknown_parts import RBAC_PART, RESOURCES

GRANTS: Final = (RESOURCES["identities"], RESOURCES["bindings"], RESOURCES["assigned"], RESOURCES["pods"], "nmi")
HOSTS: Final = (RESOURCES["pods"], RESOURCES["nodes"], RESOURCES["exceptions"], "nmi")
AZURE: Final = "azure"


class Violation(NamedTuple):
    """One object that violates a rule."""

    object: str
    """Kind and name: `Pod shop/web`."""
    message: str


class PolicyPart(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base class of the parts of a policy: other fields are errors."""


class _Rule(PolicyPart, frozen=True, kw_only=True, tag_field="rule"):
    """Fields of every rule."""

    parts: ClassVar[tuple[str, ...]]
    """Parts of the review that each rule of the kind depends on."""

    name: str
    """Unique in the file."""
    why: str = ""
    """Reason, for the reader of a violation."""
    severity: Literal["error", "warning"] = "error"
    """Violations of warnings do not change the exit code."""

    @property
    def kind(self) -> str:
        """The rule's kind, as in the file."""
        return str(self.__struct_config__.tag)

    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        """Yield the objects that violate the rule."""
        raise NotImplementedError

    def undecided(self, index: ReviewIndex) -> Iterator[str]:
        """Yield the reasons why further violations are possible."""
        review, parts = index.review, self._needed_parts()
        yield from (f"{unknown.part}: {unknown.why}" for unknown in review.unknown if unknown.part in parts)
        if AZURE in parts and review.azure == "not read":
            yield "azure: it was not read; pass --cloudconfig"

    def _needed_parts(self) -> tuple[str, ...]:
        return self.parts


class _PodRule(_Rule, frozen=True, kw_only=True):
    """Fields of a rule about pods."""

    except_namespaces: list[str] = msgspec.field(default_factory=list)
    except_pods: list[str] = msgspec.field(default_factory=list)

    def excepts(self, pod: PodAccess) -> bool:
        return is_listed(pod.namespace, self.except_namespaces) or is_matched(pod.full_name, self.except_pods)


class IdentityOnlyFrom(_Rule, frozen=True, kw_only=True, tag="identity-only-from"):
    """Only these pods can use the identities."""

    parts = GRANTS

    identities: list[str]
    namespaces: list[str] = msgspec.field(default_factory=lambda: ["*"])
    service_accounts: list[str] = msgspec.field(default_factory=lambda: ["*"])

    @override
    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        for identity, grants in index.grants_of.items():
            if not is_matched(identity, self.identities):
                continue
            for grant in grants:
                pod = index.pods.get(grant.pod)
                account = pod.service_account if pod is not None else grant.service_account
                if not is_listed(grant.pod.partition("/")[0], self.namespaces):
                    yield _by_grant(grant, f"which only pods of the namespaces {', '.join(self.namespaces)} may use")
                elif not is_matched(account, self.service_accounts):
                    yield _by_grant(grant, f"with service account {account}, which the rule does not list")


def _by_grant(grant: Grant, rest: str) -> Violation:
    path = f" through binding {grant.binding}" if grant.binding else ""
    return Violation(f"Pod {grant.pod}", f"can use identity {grant.identity}{path} ({grant.state}), {rest}")


class SingleNamespace(_Rule, frozen=True, kw_only=True, tag="single-namespace"):
    """Each of the identities is used by pods of one namespace."""

    parts = GRANTS

    identities: list[str] = msgspec.field(default_factory=lambda: ["*"])

    @override
    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        for identity, grants in index.grants_of.items():
            namespaces = sorted({grant.pod.partition("/")[0] for grant in grants})
            if len(namespaces) > 1 and is_matched(identity, self.identities):
                yield Violation(
                    f"AzureIdentity {identity}", f"is used by pods of the namespaces {', '.join(namespaces)}"
                )


class IdentityTypes(_Rule, frozen=True, kw_only=True, tag="identity-types"):
    """The identities have one of these types."""

    parts = (RESOURCES["identities"],)

    types: list[Literal[0, 1, 2, 3]]
    identities: list[str] = msgspec.field(default_factory=lambda: ["*"])

    @override
    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        for identity in index.review.identities:
            if is_matched(identity.full_name, self.identities) and identity.type not in self.types:
                yield Violation(f"AzureIdentity {identity.full_name}", f"has type {identity.type}")


class NoHostAccess(_PodRule, frozen=True, kw_only=True, tag="no-host-access"):
    """No pod reaches its node's identities, or, with `identities`, a node that has one of these."""

    parts = HOSTS

    identities: list[str] = msgspec.field(default_factory=list)
    """Patterns of AzureIdentities, or of names on Azure."""
    ways: list[Way] = msgspec.field(default_factory=lambda: list(Way))
    nodes: list[str] = msgspec.field(default_factory=lambda: ["*"])

    @override
    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        for pod in index.review.pods:
            if (ways := self._forbidden(pod.host_access)) and (identities := self._reached(index, pod)):
                names = ", ".join(dict.fromkeys(access.way.value for access in ways))
                yield Violation(f"Pod {pod.full_name}", f"reaches {identities} of node {pod.node} by {names}")

    @override
    def undecided(self, index: ReviewIndex) -> Iterator[str]:
        yield from super().undecided(index)
        for pod in index.review.pods:
            undecided = self._forbidden(pod.undecided_access)
            # A pod that reaches its host by another setting violates the rule already.
            if undecided and not self._forbidden(pod.host_access) and self._reached(index, pod):
                yield f"Pod {pod.full_name} on node {pod.node}: {_reasons(undecided)}"

    @override
    def _needed_parts(self) -> tuple[str, ...]:
        # Only Azure shows all identities of a host; without it, only those that grants explain are known.
        return (*self.parts, AZURE, *GRANTS) if self.identities else self.parts

    def _forbidden(self, several: Iterable[HostAccess]) -> list[HostAccess]:
        return [access for access in several if access.way in self.ways]

    def _reached(self, index: ReviewIndex, pod: PodAccess) -> str:
        """Return the identities of the rule that are on the pod's node, or an empty string: none is, or the rule
        excepts the pod.
        """
        if not is_listed(pod.node, self.nodes) or self.excepts(pod):
            return ""
        if not self.identities:
            return "the identities"
        host = index.host_of(pod)
        names = sorted(_matching(host, self.identities)) if host is not None else []
        return f"identity {', '.join(names)}" if names else ""


def _matching(host: Host, patterns: list[str]) -> Iterator[str]:
    for attached in host.attached:
        names = attached.identities or [short_name(attached.resource_id)]
        yield from (name for name in names if is_matched(name, patterns))


def _reasons(undecided: Iterable[HostAccess]) -> str:
    return "; ".join(f"{access.setting}: {access.why}" for access in undecided)


class NoClusterIdentity(_Rule, frozen=True, kw_only=True, tag="no-cluster-identity"):
    """No binding is for the cluster's own identity."""

    parts = (AZURE, RESOURCES["identities"], RESOURCES["bindings"])

    except_bindings: list[str] = msgspec.field(default_factory=list)

    @override
    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        for binding in index.review.bindings:
            if binding.critical and not is_matched(binding.full_name, self.except_bindings):
                yield Violation(f"AzureIdentityBinding {binding.full_name}", binding.critical)

    @override
    def undecided(self, index: ReviewIndex) -> Iterator[str]:
        yield from super().undecided(index)
        if index.review.azure != "not read" and not index.review.cluster_identity:
            yield "azure: the cloud config names no identity; pass the azure.json of a node as --cloudconfig"


class NoUnexplainedIdentities(_Rule, frozen=True, kw_only=True, tag="no-unexplained-identities"):
    """No host has an identity on Azure that nothing in the cluster explains."""

    parts = (AZURE, RESOURCES["nodes"], *GRANTS)

    except_identities: list[str] = msgspec.field(default_factory=list)
    """Patterns of names on Azure."""

    @override
    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        for host in index.review.hosts:
            for attached in host.attached:
                name = short_name(attached.resource_id)
                if attached.explained is Explained.NOTHING and not is_listed(name, self.except_identities):
                    yield Violation(f"{host.kind} {host.id}", f"has {attached.resource_id}, which nothing explains")


def _rights(review: AccessReview, *, built_in: bool) -> Iterator[tuple[SubjectAccess, SubjectRight]]:
    """Yield each permission with its subject; *built_in*: also those of the subjects of Kubernetes itself."""
    for subject in review.subjects:
        if built_in or not subject.built_in:
            yield from ((subject, right) for right in subject.rights)


class OnlySubjects(_Rule, frozen=True, kw_only=True, tag="only-subjects"):
    """Only these subjects may take the actions."""

    parts = (RBAC_PART,)

    actions: list[Action]
    subjects: list[str]
    """Patterns of `User NAME`, `Group NAME` and `ServiceAccount NAMESPACE/NAME`."""
    namespaces: list[str] = msgspec.field(default_factory=lambda: ["*"])
    """Namespaces in which the rule applies. A permission in all namespaces is one in each of them."""
    built_in: bool = False
    """Whether the subjects of Kubernetes itself (`system:…`) must be listed too."""

    @override
    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        for subject, right in _rights(index.review, built_in=self.built_in):
            if right.action not in self.actions or is_listed(subject.full_name, self.subjects):
                continue
            where = [namespace for namespace in right.namespaces if is_listed(namespace, self.namespaces)]
            if where or not right.namespaces:
                yield _by_right(subject, right, f"in {', '.join(where) or 'all namespaces'}")


class NoWildcardSubjects(_Rule, frozen=True, kw_only=True, tag="no-wildcard-subjects"):
    """No subject has one of the actions by `*` as verb, resource or API group."""

    parts = (RBAC_PART,)

    actions: list[Action] = msgspec.field(default_factory=lambda: list(Action))
    except_subjects: list[str] = msgspec.field(default_factory=list)
    built_in: bool = False

    @override
    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        for subject, right in _rights(index.review, built_in=self.built_in):
            excepted = is_listed(subject.full_name, self.except_subjects)
            if right.wildcard and right.action in self.actions and not excepted:
                yield _by_right(subject, right, "by a wildcard")


def _by_right(subject: SubjectAccess, right: SubjectRight, rest: str) -> Violation:
    return Violation(subject.full_name, f"may {right.action} {rest}: {'; '.join(right.via)}")


class BlastRadiusLimit(_PodRule, frozen=True, kw_only=True, tag="blast-radius"):
    """An attacker in one pod or node reaches at most this number of identities."""

    parts = (AZURE, *GRANTS, *HOSTS)

    of: Literal["pod", "node"]
    max_identities: Annotated[int, msgspec.Meta(ge=0)]
    federated: bool = False
    """Whether the number counts as if all identities were of type 3."""

    @override
    def violations(self, index: ReviewIndex) -> Iterator[Violation]:
        for name, radius in self._limited(index):
            count = self._count(radius)
            if count > self.max_identities:
                yield Violation(name, f"reaches {count} identities, more than {self.max_identities}")

    def _limited(self, index: ReviewIndex) -> Iterator[tuple[str, BlastRadius]]:
        if self.of == "node":
            yield from ((f"Node {node.name}", node.blast_radius) for node in index.review.nodes)
            return
        for pod in index.review.pods:
            if not self.excepts(pod):
                yield f"Pod {pod.full_name}", index.blast_radius_of(pod)

    @override
    def undecided(self, index: ReviewIndex) -> Iterator[str]:
        yield from super().undecided(index)
        for pod in index.review.pods if self.of == "pod" else ():
            node = index.nodes.get(pod.node)
            if node is None or not pod.undecided_access or self.excepts(pod):
                continue
            most = self._count(node.blast_radius)
            # Otherwise the pod violates the rule already, or not even with its whole node.
            if self._count(index.blast_radius_of(pod)) <= self.max_identities < most:
                yield f"Pod {pod.full_name} may reach {most} identities: {_reasons(pod.undecided_access)}"

    def _count(self, radius: BlastRadius) -> int:
        reach = radius.federated if self.federated else radius.today
        return len(reach.identities) + len(reach.others)


Rule: TypeAlias = (
    IdentityOnlyFrom
    | SingleNamespace
    | IdentityTypes
    | NoHostAccess
    | NoClusterIdentity
    | NoUnexplainedIdentities
    | OnlySubjects
    | NoWildcardSubjects
    | BlastRadiusLimit
)


def is_matched(name: str, patterns: list[str]) -> bool:
    """Return whether *name* (`name` or `namespace/name`) matches one of the patterns."""
    bare = name.rpartition("/")[2]
    return any(fnmatchcase(name if "/" in pattern else bare, pattern) for pattern in patterns)


def is_listed(text: str, patterns: list[str]) -> bool:
    """Return whether the whole *text* matches one of the patterns."""
    return any(fnmatchcase(text, pattern) for pattern in patterns)
