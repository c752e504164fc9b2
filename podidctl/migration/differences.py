"""What of one's cluster is different here than under the reference, as values. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec

from mic.decisions.assignments import misconfigured
from mic.startup.spellings import respelled
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.source import PolicyError
from podidctl.migration.field_spellings import object_name
from podidentity.azure.clouds import of_environment
from podidentity.azure.resource_ids import parse_user_assigned
from podidentity.kube.decoding import Malformed, decode_object
from podidentity.resources import (
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    IdentityType,
    Kind,
    Pod,
)

LISTED_MAX: Final = 20
"""Objects of one kind of finding that are named; the rest is counted."""

_CHART_LABELS: Final = {
    *(("app", "mic"), ("component", "mic"), ("app.kubernetes.io/component", "mic")),
    ("kubernetes.azure.com/managedby", "aks"),
}
"""Labels of the exceptions that the reference's chart and manifests make, as ours do."""

Document = Mapping[str, Any]


class DifferenceLevel(StrEnum):
    """What a finding asks of its reader."""

    FIX = "mend"
    """Something does not work, or will not."""
    REVIEW = "look"
    """Something is different here and somebody has to decide."""
    NO_ACTION = "by itself"
    """Something changes, and nothing has to be done."""


class Difference(msgspec.Struct, frozen=True):
    """One thing that is different."""

    level: DifferenceLevel
    about: str
    """Which object, flag or value."""
    what: str
    do: str


@dataclass(frozen=True)
class Installation:
    """What was read of a cluster."""

    documents: Mapping[str, Sequence[Document]]
    """The objects of each of our kinds, as stored, by the kind's name."""
    pods: Sequence[Pod] = ()
    """Those with the label of a binding."""
    dropped: Sequence[str] = ()
    """Kinds whose old field spellings the installed CustomResourceDefinitions drop."""
    record: str | None = None
    """The version that the type upgrade is recorded as done by."""
    record_at: str = ""
    lock: str | None = None
    """Who holds the reference's lock: None where there is no such object, empty where nobody does."""
    lock_at: str = ""
    unread: Mapping[str, str] = field(default_factory=dict)
    """What could not be read, and why."""


@dataclass(frozen=True)
class _ReadableObjects:
    """The objects that can be read at all."""

    identities: Mapping[tuple[str, str], AzureIdentity]
    bindings: Sequence[AzureIdentityBinding]
    exceptions: Sequence[AzurePodIdentityException]


def find_differences(found: Installation) -> list[Difference]:
    """All of them, what has to be mended first."""
    unreadable: list[Difference] = []
    read = _ReadableObjects(
        {each.key: each for each in _decoded(IDENTITIES, found, unreadable)},
        _decoded(BINDINGS, found, unreadable),
        _decoded(EXCEPTIONS, found, unreadable),
    )
    every = [
        *unreadable,
        *(
            Difference(DifferenceLevel.REVIEW, what, f"not read: {why}", "see what it holds by hand")
            for what, why in found.unread.items()
        ),
        *_spellings(found),
        *_identities(read),
        *_bindings(read),
        *_ambiguous_identities(read),
        *_client_ids(read),
        *_exceptions(read),
        *_pods(found, read),
        *_lock(found),
    ]
    return sorted(every, key=lambda each: list(DifferenceLevel).index(each.level))


def manifest_differences(documents: Iterable[Document]) -> list[Difference]:
    """What can be told of manifests alone: there may be more objects elsewhere."""
    by_kind: defaultdict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_kind[str(document.get("kind"))].append(document)
    unreadable: list[Difference] = []
    read = {each.key: each for each in _decoded(IDENTITIES, Installation(by_kind), unreadable)}
    exceptions = _decoded(EXCEPTIONS, Installation(by_kind), unreadable)
    return [
        *unreadable,
        *_identities(_ReadableObjects(read, (), ())),
        *_exceptions(_ReadableObjects({}, (), exceptions)),
    ]


def _decoded(kind: Kind[Any], found: Installation, unreadable: list[Difference]) -> list[Any]:
    objects = []
    for document in found.documents.get(kind.name, ()):
        try:
            objects.append(decode_object(kind, msgspec.json.encode(document)))
        except (Malformed, TypeError, ValueError, RecursionError) as error:
            unreadable.append(
                Difference(
                    DifferenceLevel.FIX,
                    object_name(kind, document),
                    f"cannot be read: {error}",
                    "correct it, or delete it",
                )
            )
    return objects


def _spellings(found: Installation) -> Iterator[Difference]:
    for kind in (IDENTITIES, BINDINGS, EXCEPTIONS):
        old = [each for each in found.documents.get(kind.name, ()) if respelled(kind, each) is not None]
        if old and found.record is None:
            yield Difference(
                DifferenceLevel.NO_ACTION,
                _object_list(kind, old),
                f"{_count(old, 'object')} in field spellings from before v1.6.0; MIC rewrites them once",
                "rewrite your manifests, too: podidctl migrate from-reference -f … -o yaml",
            )
        elif old:
            yield Difference(
                DifferenceLevel.REVIEW,
                _object_list(kind, old),
                f"in field spellings from before v1.6.0, though {found.record_at} says that version {found.record} has "
                "rewritten all; they are read as they are",
                "delete that key to have it done again, or apply rewritten manifests",
            )
        if kind.name in found.dropped:
            yield Difference(
                DifferenceLevel.REVIEW,
                kind.plural,
                "the installed CustomResourceDefinition drops old field spellings, so whether storage holds any "
                "cannot be seen",
                "apply deploy/crds, then run this again",
            )


def _identities(read: _ReadableObjects) -> Iterator[Difference]:
    policy = SignInPolicy(of_environment(None))
    for key, identity in sorted(read.identities.items()):
        about = f"AzureIdentity {'/'.join(filter(None, key))}"
        if why := misconfigured(identity):
            yield Difference(DifferenceLevel.FIX, about, why, "correct it; the reference does not assign it either")
        elif identity.spec.type in {IdentityType.SECRET, IdentityType.CERTIFICATE}:
            try:
                policy.application(identity)
            except PolicyError as error:
                yield Difference(DifferenceLevel.REVIEW, about, error.sentence, error.detail)
        elif not identity.spec.client_id.strip():
            yield Difference(
                DifferenceLevel.REVIEW,
                about,
                "has no clientID, so no request that names a client id finds it",
                "set it: az identity show --query clientId",
            )


def _bindings(read: _ReadableObjects) -> Iterator[Difference]:
    twice: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for binding in sorted(read.bindings, key=lambda each: each.key):
        meta, spec = binding.metadata, binding.spec
        twice[meta.namespace, spec.azure_identity, spec.selector].append(meta.name)
        if (meta.namespace, spec.azure_identity) not in read.identities:
            yield Difference(
                DifferenceLevel.FIX,
                f"AzureIdentityBinding {meta.namespace}/{meta.name}",
                f"there is no AzureIdentity {meta.namespace}/{spec.azure_identity}",
                "correct spec.azureIdentity, or delete the binding",
            )
    for (namespace, identity, selector), names in twice.items():
        if len(names) > 1:
            yield Difference(
                DifferenceLevel.REVIEW,
                f"AzureIdentityBindings {namespace}/{', '.join(names)}",
                f"bind {identity} to {selector!r} more than once; one AzureAssignedIdentity stands for all of them",
                "delete all but one",
            )


def _ambiguous_identities(read: _ReadableObjects) -> Iterator[Difference]:
    """Identities of which a pod may get another one here than there."""
    by_selector: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    order: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for binding in read.bindings:
        key = (binding.metadata.namespace, binding.spec.azure_identity)
        if key in read.identities:
            by_selector[binding.spec.selector].add(key)
            order[binding.spec.selector].append((binding.metadata.name, key[1], key[0]))
    for selector, keys in sorted(by_selector.items()):
        if len(keys) > 1:
            _, name, namespace = min(order[selector])
            yield Difference(
                DifferenceLevel.REVIEW,
                f"label aadpodidbinding={selector}",
                f"{len(keys)} identities; a request that names none gets {namespace}/{name} (the first by binding "
                "name), and in the reference whichever came first",
                "have applications name a client id (AZURE_CLIENT_ID)",
            )
        for name, namespaces in sorted(_same_names(keys).items()):
            yield Difference(
                DifferenceLevel.NO_ACTION,
                f"AzureIdentities {', '.join(f'{each}/{name}' for each in namespaces)}",
                f"have one name and one selector ({selector!r}): in the reference one AzureAssignedIdentity stood for "
                "all; here each has its own, the later ones with a suffix in their names",
                "nothing",
            )
    by_id: defaultdict[str, list[str]] = defaultdict(list)
    for key, identity in sorted(read.identities.items()):
        if identity.spec.resource_id:
            by_id[identity.spec.resource_id.lower()].append("/".join(key))
    for names in by_id.values():
        if len(names) > 1:
            yield Difference(
                DifferenceLevel.NO_ACTION,
                f"AzureIdentities {', '.join(names)}",
                "name the same identity of Azure; it is taken off a VM only when no pod needs any of them",
                "nothing",
            )


def _client_ids(read: _ReadableObjects) -> Iterator[Difference]:
    """Client ids that cannot all be right: Azure has one for each identity. Which one is, only Azure tells MIC."""
    by_resource: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    by_client: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    for key, identity in sorted(read.identities.items()):
        resource, client = parse_user_assigned(identity.spec.resource_id), identity.spec.client_id.strip().lower()
        if identity.spec.type == IdentityType.USER_ASSIGNED and resource is not None and client:
            by_resource[resource.key].setdefault(client, []).append("/".join(key))
            by_client[client].setdefault(resource.key, []).append("/".join(key))
    for groups, says in (
        (by_resource, "have one resourceID and different clientIDs"),
        (by_client, "have one clientID and different resourceIDs"),
    ):
        for group in groups.values():
            if len(group) > 1:
                names = sorted(name for several in group.values() for name in several)
                yield Difference(
                    DifferenceLevel.FIX,
                    f"AzureIdentities {_listed(names)}",
                    f"{says}; MIC assigns only those whose clientID Azure reports for their resourceID, where the "
                    "reference assigned all",
                    "correct them: az identity show --query '[clientId, id]'",
                )


def _same_names(keys: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for namespace, name in sorted(keys):
        by_name[name].append(namespace)
    return {name: namespaces for name, namespaces in by_name.items() if len(namespaces) > 1}


def _exceptions(read: _ReadableObjects) -> Iterator[Difference]:
    for exception in sorted(read.exceptions, key=lambda each: each.key):
        labels = exception.spec.pod_labels or {}
        usual = bool(labels) and labels.items() <= _CHART_LABELS
        told_labels = " or ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "no label"
        yield Difference(
            DifferenceLevel.NO_ACTION if usual else DifferenceLevel.REVIEW,
            f"AzurePodIdentityException {'/'.join(filter(None, exception.key))}",
            f"pods of its namespace with {told_labels} get the node's own identities, as in the reference",
            "nothing: the chart makes it" if usual else "see who may write pods there, and --exception-namespaces",
        )


def _pods(found: Installation, read: _ReadableObjects) -> Iterator[Difference]:
    selectors = {each.spec.selector for each in read.bindings}
    without = [each for each in found.pods if each.binding_label not in selectors and not each.finished]
    if without:
        names = [f"{each.metadata.namespace}/{each.metadata.name}" for each in without]
        yield Difference(
            DifferenceLevel.REVIEW,
            f"pods {_listed(names)}",
            "have the label aadpodidbinding with a value that no binding selects; they get a 404 after 45 s, in the "
            "reference after 80 s",
            "correct the label or the selector, or take the label off",
        )
    mirrors = [each for each in found.pods if each.mirror and each.binding_label and not each.finished]
    if mirrors:
        names = [f"{each.metadata.namespace}/{each.metadata.name}" for each in mirrors]
        yield Difference(
            DifferenceLevel.REVIEW,
            f"mirror pods {_listed(names)}",
            "are static pods with the label aadpodidbinding; they get no identity, since their node's kubelet could "
            "have given them any namespace and labels",
            "use a DaemonSet or Deployment instead",
        )


def _lock(found: Installation) -> Iterator[Difference]:
    if found.lock is None:
        return
    held = f"is held by {found.lock}" if found.lock else "is held by nobody"
    yield Difference(
        DifferenceLevel.NO_ACTION,
        f"Endpoints {found.lock_at}",
        f"the reference's leader lock is there and {held}; our MIC takes it, too, before it writes",
        "grant our MIC get and update on this object (the chart does); it can be deleted when no reference is to run "
        "again",
    )


def _object_list(kind: Kind[Any], documents: Sequence[Document]) -> str:
    return f"{kind.plural}: {_listed([object_name(kind, each).removeprefix(f'{kind.name} ') for each in documents])}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - LISTED_MAX
    return ", ".join(names[:LISTED_MAX]) + (f" and {more} more" if more > 0 else "")


def _count(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"
